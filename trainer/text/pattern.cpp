#define PCRE2_CODE_UNIT_WIDTH 8
#include "trainer/text/pattern.h"

#include <pcre2.h>

#include <new>
#include <stdexcept>

#include "trainer/text/unicode.h"

namespace assay::train {
namespace {

// The White_Space property. PCRE2's own \s with PCRE2_UCP has U+180E in addition.
constexpr const char* kSpace =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr const char* kNoSpace =
    "\\x{00}-\\x{08}\\x{0E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}"
    "\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}";

constexpr std::string_view kCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me",
                                            "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi",
                                            "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      switch (c) {
        case '\\': escape(false); break;
        case '[': character_class(); break;
        case '(': group(); break;
        case ')':
          if (!ignore_case_.empty()) ignore_case_.pop_back();
          out_ += c, ++at_;
          break;
        case '{': interval(); break;
        case '^':
        case '$': refuse(std::string("the anchor ") + c);
        default: out_ += c, ++at_; break;
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error("the regular expression '" + std::string(in_) + "' holds " + what + " at byte " +
                             std::to_string(at_));
  }
  char peek(std::size_t offset) const { return at_ + offset < in_.size() ? in_[at_ + offset] : '\0'; }

  // An escape means the same in both, gets rewritten, or is refused.
  void escape(bool in_class) {
    const char c = peek(1);
    switch (c) {
      case 's':
        out_ += in_class ? kSpace : std::string("[") + kSpace + "]";
        at_ += 2;
        return;
      case 'S':
        out_ += in_class ? kNoSpace : std::string("[^") + kSpace + "]";
        at_ += 2;
        return;
      case 'd': category("Nd", false, in_class), at_ += 2; return;
      case 'D':
        if (in_class) refuse("\\D inside of a class");
        category("Nd", true, in_class), at_ += 2;
        return;
      case 'p':
      case 'P': {
        const std::size_t end = in_.find('}', at_);
        if (peek(2) != '{' || end == in_.npos) refuse("a property without braces");
        const std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
        bool known = false;
        for (const std::string_view one : kCategories) known |= one == name;
        if (!known) refuse("the property \\" + std::string(1, c) + "{" + std::string(name) + "}");
        if (c == 'P' && in_class) refuse("\\P inside of a class");
        category(name, c == 'P', in_class);
        at_ = end + 1;
        return;
      }
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'v':
        // \v is one character (U+000B) in Oniguruma and a class in PCRE2.
        out_ += c == 'v' ? "\\x{0B}" : std::string{'\\', c};
        at_ += 2;
        return;
      case 'x': {
        const std::size_t end = in_.find('}', at_);
        if (peek(2) != '{' || end == in_.npos) refuse("\\x without braces");
        out_ += in_.substr(at_, end + 1 - at_);
        at_ = end + 1;
        return;
      }
      default: break;
    }
    const auto code = static_cast<unsigned char>(c);
    if (c == '\0' || code >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
      refuse(std::string("the escape \\") + c);
    out_ += '\\';
    out_ += c;
    at_ += 2;
  }

  void category(std::string_view name, bool negated, bool in_class) {
    // Inside of (?i:…) PCRE2 takes these three for one and the same.
    if (!ignore_case_.empty() && ignore_case_.back() && (name == "Lu" || name == "Ll" || name == "Lt"))
      refuse("\\p{" + std::string(name) + "} where case is ignored");
    const std::string members = "\\p{" + std::string(name) + "}" + later_characters(name);
    if (in_class) out_ += members;
    else out_ += (negated ? "[^" : "[") + members + "]";
  }

  void character_class() {
    out_ += '[', ++at_;
    if (peek(0) == '^') out_ += '^', ++at_;
    if (peek(0) == ']') refuse("a class that starts with ]");
    while (at_ < in_.size() && in_[at_] != ']') {
      const char c = in_[at_];
      if (c == '[') refuse("a class inside of a class");
      if (c == '&' && peek(1) == '&') refuse("&& inside of a class");
      if (c == '\\') escape(true);
      else out_ += c, ++at_;
    }
    if (at_ == in_.size()) refuse("a class without its end");
    out_ += ']', ++at_;
  }

  void group() {
    ignore_case_.push_back(!ignore_case_.empty() && ignore_case_.back());
    if (peek(1) == '?') {
      // Only these mean the same: (?: (?= (?! (?> (?<= (?<! (?i:
      const char c = peek(2);
      const bool look_behind = c == '<' && (peek(3) == '=' || peek(3) == '!');
      const bool ignore_case = c == 'i' && peek(3) == ':';
      if (c != ':' && c != '=' && c != '!' && c != '>' && !look_behind && !ignore_case)
        refuse(std::string("the group (?") + c);
      if (ignore_case) ignore_case_.back() = true;
    } else if (peek(1) == '*') {
      refuse("the group (*");
    }
    out_ += '(', ++at_;
  }

  void interval() {
    std::size_t end = at_ + 1;
    bool digits = false;
    while (end < in_.size() && (in_[end] == ',' || (in_[end] >= '0' && in_[end] <= '9'))) digits |= in_[end++] != ',';
    // {,n} is 0 to n in Oniguruma and plain text in PCRE2; {n}+ repeats in Oniguruma and is possessive in PCRE2.
    if (!digits || peek(1) == ',' || end >= in_.size() || in_[end] != '}') refuse("a brace that is no plain {n,m}");
    const char next = end + 1 < in_.size() ? in_[end + 1] : '\0';
    if (next == '+' || next == '?' || next == '*' || next == '{') refuse("an interval followed by another quantifier");
    out_ += in_.substr(at_, end + 1 - at_);
    at_ = end + 1;
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
  std::vector<bool> ignore_case_;  // of each open group
};

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

std::string message_of(int error) {
  char text[256];
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

}  // namespace

std::string to_pcre2(std::string_view oniguruma) { return Translator(oniguruma).run(); }

struct Pattern::Impl {
  std::unique_ptr<pcre2_code, FreeCode> code;
};

Pattern::Pattern(std::string_view oniguruma) : impl_(std::make_unique<Impl>()) {
  const std::string pattern = to_pcre2(oniguruma);
  const std::unique_ptr<pcre2_compile_context, FreeContext> context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                  &error, &offset, context.get()));
  if (!impl_->code)
    throw std::runtime_error("the regular expression '" + std::string(oniguruma) + "' does not compile: " + message_of(error));
  // Without a just-in-time compiler (or where it may not make code) matching is slower and gives the same.
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

void Pattern::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  if (text.empty()) return;
  const std::unique_ptr<pcre2_match_data, FreeData> data(pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  if (!data) throw std::bad_alloc();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t reached = 0;           // everything before is in `pieces`
  std::size_t at = 0;                // where the next search starts
  std::size_t last_end = text.npos;  // of the last match
  while (at <= text.size()) {
    int found = pcre2_match(impl_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(impl_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) throw std::runtime_error("cutting a text into words failed: " + message_of(found));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    const std::size_t begin = range[0], end = range[1];
    if (begin == end && begin == last_end) {
      // An empty match right behind the last one: go on with the next character, as Oniguruma's iterator does.
      if (at >= text.size()) break;
      next_code_point(text, at);
      continue;
    }
    if (begin > reached) pieces.push_back(text.substr(reached, begin - reached));
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
    reached = end;
    at = last_end = end;
  }
  if (reached < text.size()) pieces.push_back(text.substr(reached));
}

}  // namespace assay::train
