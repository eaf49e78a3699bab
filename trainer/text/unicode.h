// The little Unicode that a byte-level tokenizer needs, as `tokenizers` 0.23 has it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace assay::train {

// The text with every maximal broken sequence replaced by one U+FFFD (Unicode 15, section 3.9, "U+FFFD Substitution of
// Maximal Subparts"; what Python's errors="replace" and Rust's from_utf8_lossy do).
std::string to_valid_utf8(std::string_view text);

// How many bytes at the end, 0 to 3, begin a character that more bytes could complete.
std::size_t unfinished_bytes(std::string_view text);

// The code point that starts at `at`, which moves behind it. The text must be valid UTF-8, at < size.
char32_t next_code_point(std::string_view text, std::size_t& at);
void append_code_point(std::string& text, char32_t code);

bool is_number(char32_t code);      // general category N
bool is_white_space(char32_t code); // the White_Space property

// Normalization form C of valid UTF-8, with the characters of Unicode 9: later ones pass through, as in `tokenizers`.
std::string to_nfc(std::string_view text);

// Ranges, in the syntax of a PCRE2 class, of characters of a general category (one or two letters) that `tokenizers`
// knows and the oldest supported PCRE2 does not. Empty when there are none.
std::string later_characters(std::string_view category);

}  // namespace assay::train
