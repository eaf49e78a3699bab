#include "trainer/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

namespace assay::train {
namespace {

struct CategoryRange {
  char32_t first, last;
  const char* category;
};
struct CodeRange {
  char32_t first, last;
};
#include "trainer/text/unicode_tables.inc"

template <class Range, std::size_t N>
const Range* find_range(const Range (&table)[N], char32_t code) {
  for (const Range& range : table)
    if (code >= range.first && code <= range.last) return &range;
  return nullptr;
}

// Length of the sequence at `at` if it is well formed; otherwise 0, and `broken` is the length of the maximal subpart.
std::size_t sequence_length(std::string_view text, std::size_t at, std::size_t& broken) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(at);
  broken = 1;
  if (lead < 0x80) return 1;
  std::size_t length = 0;
  unsigned low = 0x80, high = 0xBF;  // of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  else if (lead >= 0xE0 && lead <= 0xEF) length = 3;
  else if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  else return 0;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < length; ++i) {
    const unsigned next = byte(at + i);
    if (at + i >= text.size() || next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF)) {
      broken = i;
      return 0;
    }
  }
  return length;
}

void append_nfc(std::string& result, std::string_view text) {
  if (text.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  if (size < 0) throw std::runtime_error(std::string("NFC normalization failed: ") + utf8proc_errmsg(size));
  result.append(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(size));
}

}  // namespace

std::string to_valid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    std::size_t broken = 0;
    const std::size_t length = sequence_length(text, at, broken);
    if (length > 0) {
      result.append(text, at, length);
      at += length;
    } else {
      result += "\xEF\xBF\xBD";
      at += broken;
    }
  }
  return result;
}

std::size_t unfinished_bytes(std::string_view text) {
  const auto byte = [&](std::size_t back) { return static_cast<unsigned char>(text[text.size() - back]); };
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const unsigned char lead = byte(back);
    if ((lead & 0xC0) == 0x80) continue;
    const std::size_t wanted = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xC2 && lead < 0xE0 ? 2 : 1;
    if (wanted <= back) return 0;
    if (back > 1) {  // the second byte's range is narrower behind four of the leads
      const unsigned char second = byte(back - 1);
      const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
      if (second < low || second > high) return 0;
    }
    return back;
  }
  return 0;
}

char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned lead = byte(0);
  char32_t code = 0;
  std::size_t length = 1;
  if (lead < 0x80) code = lead;
  else if (lead < 0xE0) code = (lead & 0x1F) << 6 | (byte(1) & 0x3F), length = 2;
  else if (lead < 0xF0) code = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), length = 3;
  else code = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), length = 4;
  at += length;
  return code;
}

void append_code_point(std::string& text, char32_t code) {
  const auto put = [&](char32_t bits) { text += static_cast<char>(bits); };
  if (code < 0x80) put(code);
  else if (code < 0x800) put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  else if (code < 0x10000) put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  else put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
}

bool is_number(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9';
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return true;
    default: break;
  }
  const CategoryRange* later = find_range(kLaterCharacters, code);
  return (later && later->category[0] == 'N') || find_range(kNumbersOfDigits, code);
}

bool is_white_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

std::string to_nfc(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t before = at;
    const char32_t code = next_code_point(text, at);
    // A character without combining class that composes with nothing: normalization never reaches across it.
    if (code >= 0x300 && find_range(kStartersOfNfc, code)) {
      append_nfc(result, text.substr(start, before - start));
      result.append(text, before, at - before);
      start = at;
    }
  }
  append_nfc(result, text.substr(start));
  return result;
}

std::string later_characters(std::string_view category) {
  std::string result;
  for (const CategoryRange& range : kLaterCharacters) {
    if (std::string_view(range.category).substr(0, category.size()) != category) continue;
    char item[32];
    std::snprintf(item, sizeof item, "\\x{%X}-\\x{%X}", static_cast<unsigned>(range.first),
                  static_cast<unsigned>(range.last));
    result += item;
  }
  return result;
}

}  // namespace assay::train
