#include "trainer/grpo/reward.h"

#include <algorithm>
#include <cstddef>

namespace assay::train {
namespace {

constexpr std::size_t verl_clip_characters = 300;

bool digit(char c) { return c >= '0' && c <= '9'; }
bool letter_or_digit(char c) { return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

std::string without(std::string_view text, std::string_view dropped) {
  std::string out;
  std::copy_if(text.begin(), text.end(), std::back_inserter(out),
               [&](char c) { return dropped.find(c) == std::string_view::npos; });
  return out;
}

// The last n code points.
std::string_view tail(std::string_view text, std::size_t n) {
  std::size_t at = text.size();
  while (at > 0 && n > 0) {
    --at;
    if (!continuation(text[at])) --n;
  }
  return text.substr(at);
}

// One match of `#### (\-?[0-9\.\,]+)` at or after `from`: the group, and where the search goes on.
std::optional<std::string_view> verl_match(std::string_view text, std::size_t from, std::size_t& next) {
  constexpr std::string_view mark = "#### ";
  for (std::size_t at = text.find(mark, from); at != std::string_view::npos; at = text.find(mark, at + 1)) {
    const std::size_t begin = at + mark.size();
    std::size_t end = begin;
    if (end < text.size() && text[end] == '-') ++end;
    const std::size_t number = end;
    while (end < text.size() && (digit(text[end]) || text[end] == '.' || text[end] == ',')) ++end;
    if (end == number) continue;
    next = end;
    return text.substr(begin, end - begin);
  }
  return std::nullopt;
}

std::optional<std::string> verl_answer(std::string_view completion) {
  const std::string_view text = tail(completion, verl_clip_characters);
  std::optional<std::string_view> last;
  std::size_t next = 0;
  while (const auto match = verl_match(text, next, next)) last = match;
  if (!last) return std::nullopt;
  return without(*last, ",$");
}

// Digits from `at` with an optional fraction; commas anywhere between digits. Empty: there is no number.
std::string_view plain_number(std::string_view text, std::size_t at) {
  std::size_t end = at;
  while (end < text.size() && (digit(text[end]) || (text[end] == ',' && end > at))) ++end;
  if (end + 1 < text.size() && text[end] == '.' && digit(text[end + 1])) {
    ++end;
    while (end < text.size() && digit(text[end])) ++end;
  }
  return text.substr(at, end - at);
}

// `####`, white space, then -$72 or $-72 or 72.
std::optional<std::string> robust_answer(std::string_view text) {
  constexpr std::string_view mark = "####";
  std::optional<std::string> last;
  for (std::size_t at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + 1)) {
    std::size_t begin = at + mark.size();
    while (begin < text.size() && (text[begin] == ' ' || text[begin] == '\t')) ++begin;
    bool negative = false;
    while (begin < text.size() && (text[begin] == '$' || (text[begin] == '-' && !negative)))
      negative |= text[begin++] == '-';
    const auto number = canonical_number(plain_number(text, begin));
    if (number) last = negative && *number != "0" ? "-" + *number : *number;
  }
  return last;
}

// The last number of the text, thousands commas understood. A minus belongs to it when nothing it could be subtracted
// from stands right before.
std::optional<std::string> last_number(std::string_view text) {
  std::optional<std::string> last;
  for (std::size_t at = 0; at < text.size();) {
    if (!digit(text[at])) {
      ++at;
      continue;
    }
    const std::size_t begin = at;
    while (at < text.size() && digit(text[at])) ++at;
    const auto three_digits = [&](std::size_t i) {
      return i + 2 < text.size() && digit(text[i]) && digit(text[i + 1]) && digit(text[i + 2]) &&
             (i + 3 == text.size() || !digit(text[i + 3]));
    };
    while (at < text.size() && text[at] == ',' && three_digits(at + 1)) at += 4;
    if (at + 1 < text.size() && text[at] == '.' && digit(text[at + 1])) {
      ++at;
      while (at < text.size() && digit(text[at])) ++at;
    }
    std::size_t before = begin;
    if (before > 0 && text[before - 1] == '$') --before;
    const bool negative = before > 0 && text[before - 1] == '-' &&
                          (before == 1 || !(letter_or_digit(text[before - 2]) || text[before - 2] == ')'));
    const auto number = canonical_number(text.substr(begin, at - begin));
    if (number) last = negative && *number != "0" ? "-" + *number : *number;
  }
  return last;
}

}  // namespace

std::optional<Scorer> parse_scorer(std::string_view name) {
  if (name == "verl") return Scorer::verl;
  if (name == "robust") return Scorer::robust;
  return std::nullopt;
}

const char* name(Outcome outcome) {
  switch (outcome) {
    case Outcome::correct: return "correct";
    case Outcome::wrong: return "wrong";
    case Outcome::unparsable: return "unparsable";
    case Outcome::scorer_error: return "scorer_error";
  }
  return "scorer_error";
}

std::optional<std::string> canonical_number(std::string_view text) {
  std::string s = without(text, ",$");
  const bool negative = !s.empty() && s.front() == '-';
  if (negative) s.erase(0, 1);
  const auto dot = s.find('.');
  std::string whole = s.substr(0, dot), fraction = dot == std::string::npos ? "" : s.substr(dot + 1);
  if (whole.empty() && fraction.empty()) return std::nullopt;
  if (!std::all_of(whole.begin(), whole.end(), digit) || !std::all_of(fraction.begin(), fraction.end(), digit))
    return std::nullopt;
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
  fraction.erase(fraction.find_last_not_of('0') + 1);
  if (whole.empty()) whole.push_back('0');
  const std::string value = fraction.empty() ? whole : whole + "." + fraction;
  return negative && value != "0" ? "-" + value : value;
}

std::optional<std::string> gold_answer(std::string_view solution) {
  std::size_t next = 0;
  const auto match = verl_match(solution, 0, next);
  if (!match) return std::nullopt;
  return without(*match, ",");
}

Score score(Scorer scorer, std::string_view completion, std::string_view gold) {
  Score result;
  const auto gold_number = canonical_number(gold);
  const auto robust = robust_answer(completion);
  const auto found = scorer == Scorer::verl ? verl_answer(completion) : robust;
  result.format_right = found.has_value();
  if (found) result.answer = *found;

  const auto given = robust ? robust : last_number(completion);
  result.arithmetic_right = given && gold_number && *given == *gold_number;

  // verl compares text: a gold answer with a comma in it can never be met.
  const bool matchable = scorer == Scorer::verl ? gold_number && gold.find_first_of(",$") == gold.npos
                                                : gold_number.has_value();
  const bool equal = found && (scorer == Scorer::verl ? *found == gold : found == gold_number);
  if (equal)
    result.outcome = Outcome::correct;
  else if (!matchable)
    result.outcome = Outcome::scorer_error;
  else
    result.outcome = found ? Outcome::wrong : Outcome::unparsable;
  result.score = equal ? 1.0 : 0.0;
  return result;
}

double overlong_penalty(std::int64_t length, std::int64_t max_length, std::int64_t buffer, double factor) {
  if (buffer <= 0) return 0;
  const auto over = static_cast<double>(length - (max_length - buffer));
  return std::min(-over / static_cast<double>(buffer) * factor, 0.0);
}

}  // namespace assay::train
