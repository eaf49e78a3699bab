#include "runner/console/parser.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "runner/console/number.h"

namespace assay::console {
namespace {

constexpr std::uint32_t kMatchLimit = 100'000;

class VerlParser : public LineParser {
  std::optional<StepLine> line(std::string_view text, bool whole) override { return parse_verl_line(text, whole); }
};

std::optional<std::int64_t> as_step(double value) {
  if (!(value >= 0) || value > static_cast<double>(kLargestStep) || std::floor(value) != value) return std::nullopt;
  return static_cast<std::int64_t>(value);
}

class TrlParser : public LineParser {
  std::optional<StepLine> line(std::string_view text, bool whole) override {
    if (!whole && text.find('}') == std::string_view::npos) return std::nullopt;
    StepLine found;
    found.points = parse_trl_dict(text);
    if (found.points.empty()) return std::nullopt;
    std::optional<std::int64_t> said;
    bool training = false;
    for (const Point& point : found.points) {
      if (point.key == "step" || point.key == "global_step") said = as_step(point.value);
      training |= point.key == "loss";
    }
    if (said) step_ = *said;
    else if (training) ++step_;
    found.step = step_;
    return found;
  }
  std::int64_t step_ = 0;
};

struct Pattern {
  std::shared_ptr<pcre2_code> code;
  std::vector<std::pair<std::string, int>> groups;   // name, number
  std::string fault;
  bool has(const char* name) const {
    return std::any_of(groups.begin(), groups.end(), [&](const auto& group) { return group.first == name; });
  }
};

Pattern compile(const std::string& text) {
  Pattern pattern;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_NEVER_BACKSLASH_C,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> words{};
    pcre2_get_error_message(error, words.data(), words.size());
    pattern.fault = "the pattern does not compile: " + std::string(reinterpret_cast<const char*>(words.data())) +
                    " at character " + std::to_string(offset);
    return pattern;
  }
  pattern.code = {code, pcre2_code_free};
  std::uint32_t count = 0, size = 0;
  PCRE2_SPTR table = nullptr;
  pcre2_pattern_info(code, PCRE2_INFO_NAMECOUNT, &count);
  pcre2_pattern_info(code, PCRE2_INFO_NAMEENTRYSIZE, &size);
  pcre2_pattern_info(code, PCRE2_INFO_NAMETABLE, &table);
  for (std::uint32_t i = 0; i < count; ++i, table += size)
    pattern.groups.emplace_back(reinterpret_cast<const char*>(table + 2), table[0] << 8 | table[1]);
  const bool key = pattern.has("key"), value = pattern.has("value");
  if (key != value)
    pattern.fault = std::string("it has the group ") + (key ? "key and not value" : "value and not key") +
                    "; write both, as in (?<key>[a-z]+)=(?<value>[^ ]+)";
  else if (!key && (pattern.groups.empty() || (pattern.groups.size() == 1 && pattern.has("step"))))
    pattern.fault = "it has no named group for a metric; write one per key, as in loss (?<loss>[^ ]+)";
  return pattern;
}

class RegexParser : public LineParser {
 public:
  explicit RegexParser(const std::string& text) : pattern_(compile(text)) {
    if (!pattern_.fault.empty()) throw std::runtime_error("trainer.metrics_regex: " + pattern_.fault);
    data_ = {pcre2_match_data_create_from_pattern(pattern_.code.get(), nullptr), pcre2_match_data_free};
    limits_ = {pcre2_match_context_create(nullptr), pcre2_match_context_free};
    pcre2_set_match_limit(limits_.get(), kMatchLimit);
  }

  std::optional<StepLine> line(std::string_view text, bool whole) override {
    const std::string clean = without_controls(text);
    StepLine found;
    std::optional<std::int64_t> said;
    const bool pairs = pattern_.has("key");
    for (PCRE2_SIZE from = 0; from <= clean.size() && found.points.size() < kMostPoints;) {
      const int result = pcre2_match(pattern_.code.get(), reinterpret_cast<PCRE2_SPTR>(clean.data()), clean.size(), from,
                                     0, data_.get(), limits_.get());
      if (result < 1) break;
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data_.get());
      // What reaches the end of a line that is still being written may go on.
      if (!whole && ends[1] == clean.size()) break;
      std::string key;
      for (const auto& [name, number] : pattern_.groups) {
        const PCRE2_SIZE begin = ends[2 * number], end = ends[2 * number + 1];
        if (begin == PCRE2_UNSET) continue;
        const std::string_view value = std::string_view(clean).substr(begin, end - begin);
        if (name == "step") {
          if (const auto number_said = parse_number(value)) said = as_step(*number_said);
        } else if (name == "key") {
          key = std::string(value);
        } else if (name != "value") {
          take(with_slashes(name), value, found);
        }
      }
      if (pairs) {
        for (const auto& [name, number] : pattern_.groups)
          if (name == "value" && ends[2 * number] != PCRE2_UNSET)
            take(key, std::string_view(clean).substr(ends[2 * number], ends[2 * number + 1] - ends[2 * number]), found);
      } else {
        break;
      }
      from = ends[1] > from ? ends[1] : from + 1;
    }
    if (found.points.empty()) return std::nullopt;
    step_ = said ? *said : pattern_.has("step") ? step_ : step_ + 1;
    found.step = step_;
    return found;
  }

 private:
  static std::string with_slashes(std::string name) {
    for (std::size_t at; (at = name.find("__")) != std::string::npos;) name.replace(at, 2, "/");
    return name;
  }
  static void take(const std::string& key, std::string_view value, StepLine& found) {
    if (key.empty() || key.size() > kLongestKey) return;
    if (const auto number = parse_number(value)) found.points.push_back({key, *number});
    else found.unreadable.push_back(key);
  }

  Pattern pattern_;
  std::shared_ptr<pcre2_match_data> data_;
  std::shared_ptr<pcre2_match_context> limits_;
  std::int64_t step_ = 0;
};

// A quoted Python string at text[at]: its content; `at` moves behind it. Escapes stay as they are written.
std::optional<std::string> quoted(std::string_view text, std::size_t& at) {
  const char quote = at < text.size() ? text[at] : '\0';
  if (quote != '\'' && quote != '"') return std::nullopt;
  std::string content;
  for (std::size_t i = at + 1; i < text.size(); ++i) {
    if (text[i] == quote) {
      at = i + 1;
      return content;
    }
    if (text[i] == '\\' && i + 1 < text.size()) content += text[i++];
    content += text[i];
  }
  return std::nullopt;
}

void skip_spaces(std::string_view text, std::size_t& at) {
  while (at < text.size() && text[at] == ' ') ++at;
}

// The pairs of the dict that begins at text[at]; nothing when it is none. Values that are no numbers are passed over,
// whatever brackets they hold.
std::optional<std::vector<Point>> dict(std::string_view text, std::size_t at) {
  std::vector<Point> points;
  ++at;
  for (bool first = true;; first = false) {
    skip_spaces(text, at);
    if (at < text.size() && text[at] == '}') return points;
    if (!first) {
      if (at >= text.size() || text[at] != ',') return std::nullopt;
      ++at;
      skip_spaces(text, at);
      if (at < text.size() && text[at] == '}') return points;
    }
    const auto key = quoted(text, at);
    skip_spaces(text, at);
    if (!key || at >= text.size() || text[at] != ':') return std::nullopt;
    ++at;
    skip_spaces(text, at);
    std::optional<double> value;
    if (std::size_t end = at; const auto word = quoted(text, end)) {
      value = parse_number(*word);
      at = end;
    } else {
      const std::size_t begin = at;
      for (int depth = 0; at < text.size(); ++at) {
        const char c = text[at];
        if (depth == 0 && (c == ',' || c == '}')) break;
        if (c == '(' || c == '[' || c == '{') ++depth;
        if (c == ')' || c == ']' || c == '}') --depth;
        if (c == '\'' || c == '"') {
          std::size_t behind = at;
          if (!quoted(text, behind)) return std::nullopt;
          at = behind - 1;
        }
      }
      if (at >= text.size()) return std::nullopt;
      value = parse_number(text.substr(begin, at - begin));
    }
    if (value && !key->empty() && key->size() <= kLongestKey && points.size() < kMostPoints)
      points.push_back({*key, *value});
  }
}

}  // namespace

std::vector<Point> parse_trl_dict(std::string_view line) {
  if (line.find('{') == std::string_view::npos) return {};
  const std::string clean = without_controls(line);
  // A progress bar may stand before it.
  int tries = 0;
  for (std::size_t at = clean.find('{'); at != std::string::npos && tries < 50; at = clean.find('{', at + 1), ++tries)
    if (auto points = dict(clean, at)) return std::move(*points);
  return {};
}

std::string regex_fault(const std::string& pattern) { return compile(pattern).fault; }

std::unique_ptr<LineParser> make_parser(const std::string& kind, const std::string& regex) {
  if (kind == "verl") return std::make_unique<VerlParser>();
  if (kind == "trl") return std::make_unique<TrlParser>();
  if (kind == "regex") return std::make_unique<RegexParser>(regex);
  throw std::logic_error("trainer.metrics: '" + kind + "' is not read from a console");
}

}  // namespace assay::console
