#include "runner/console/number.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace assay::console {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

std::optional<double> plain(std::string_view text) {
  text = trimmed(text);
  if (text == "True") return 1.0;
  if (text == "False") return 0.0;
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf")
    return negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  // Python's digits only: from_chars would take "infinity" and "nan(x)" as well.
  if (text.empty() || !((text[0] >= '0' && text[0] <= '9') || text[0] == '.')) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return negative ? -value : value;
}

// Bytes of the UTF-8 character at the start of `text`; 0: it is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t length = first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5                 ? 4
                                                                             : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates, beyond U+10FFFF.
  if (first == 0xe0 && byte(1) < 0xa0) return 0;
  if (first == 0xed && byte(1) > 0x9f) return 0;
  if (first == 0xf0 && byte(1) < 0x90) return 0;
  if (first == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

}  // namespace

std::optional<double> parse_number(std::string_view text) {
  text = trimmed(text);
  if (text.empty() || text.back() != ')') return plain(text);
  const std::size_t open = text.find('(');
  if (open == 0 || open == std::string_view::npos) return std::nullopt;
  const std::string_view type = text.substr(0, open);
  const bool known = type == "tensor" || type == "array" || type == "float" || type == "int" || type.starts_with("np.") ||
                     type.starts_with("numpy.") || type.starts_with("torch.");
  if (!known) return std::nullopt;
  std::string_view inside = text.substr(open + 1, text.size() - open - 2);
  // What follows the number says where it lies and of what type it is.
  if (const std::size_t comma = inside.find(','); comma != std::string_view::npos) inside = inside.substr(0, comma);
  return plain(inside);
}

std::string without_controls(std::string_view line) {
  std::string clean;
  clean.reserve(line.size());
  for (std::size_t i = 0; i < line.size();) {
    const auto c = static_cast<unsigned char>(line[i]);
    if (c == 0x1b && i + 1 < line.size()) {
      const char kind = line[i + 1];
      i += 2;
      if (kind == '[') {                                   // CSI: parameters, then one final byte
        while (i < line.size() && static_cast<unsigned char>(line[i]) >= 0x20 &&
               static_cast<unsigned char>(line[i]) <= 0x3f)
          ++i;
        if (i < line.size() && static_cast<unsigned char>(line[i]) >= 0x40 &&
            static_cast<unsigned char>(line[i]) <= 0x7e)
          ++i;
      } else if (kind == ']' || kind == 'P' || kind == '_' || kind == '^') {  // a string up to BEL or ESC backslash
        while (i < line.size() && line[i] != '\a' && line[i] != '\x1b') ++i;
        if (i < line.size()) i += line[i] == '\a' ? 1 : 2;
      }
      continue;
    }
    if (c < 0x20 || c == 0x7f) {
      if (c == '\t') clean += ' ';
      ++i;
      continue;
    }
    const std::size_t length = utf8_length(line.substr(i));
    if (length == 0) {
      clean += '?';
      ++i;
    } else {
      clean += line.substr(i, length);
      i += length;
    }
  }
  return clean;
}

}  // namespace assay::console
