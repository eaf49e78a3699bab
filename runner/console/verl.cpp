#include "runner/console/verl.h"

#include <charconv>
#include <cmath>

#include "runner/console/number.h"

namespace assay::console {
namespace {

constexpr std::string_view kStep = "step:";
constexpr std::string_view kSeparator = " - ";

bool digit(char c) { return c >= '0' && c <= '9'; }
bool word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || digit(c) || c == '_' || c == '/' || c == '.' || c == '-';
}

// "(TaskRunner pid=4711, ip=10.0.0.7) ": its length, and what stands in the parentheses. Nothing when none begins here.
struct Prefix {
  std::size_t length = 0;
  std::string worker;
};
std::optional<Prefix> ray_prefix(std::string_view text) {
  if (text.empty() || text[0] != '(') return std::nullopt;
  const std::size_t close = text.substr(0, 200).find(')');
  if (close == std::string_view::npos) return std::nullopt;
  const std::string_view inside = text.substr(1, close - 1);
  const std::size_t pid = inside.find(" pid=");
  if (pid == 0 || pid == std::string_view::npos || inside.find('(') != std::string_view::npos) return std::nullopt;
  const std::size_t number = pid + 5;
  if (number >= inside.size() || !digit(inside[number])) return std::nullopt;
  std::size_t length = close + 1;
  if (length < text.size() && text[length] == ' ') ++length;
  return Prefix{length, std::string(inside)};
}

// Where another process's text begins inside the line; the line's size when nowhere.
std::size_t foreign_text(std::string_view line) {
  for (std::size_t at = line.find('('); at != std::string_view::npos; at = line.find('(', at + 1))
    if (ray_prefix(line.substr(at))) return at;
  return line.size();
}

bool usable(std::string_view key) {
  return !key.empty() && key.size() <= kLongestKey && key.front() != ' ' && key.back() != ' ';
}

// `key:value`. A value may hold a colon itself, as in tensor(0.5, device='cuda:0'), and then ends with a parenthesis.
void take_pair(std::string_view pair, bool believed, StepLine& found) {
  while (!pair.empty() && pair.back() == ' ') pair.remove_suffix(1);
  std::size_t end = pair.size();
  if (!pair.empty() && pair.back() == ')') {
    const std::size_t open = pair.find('(');
    if (open != std::string_view::npos) end = open;
  }
  const std::size_t colon = end == 0 ? std::string_view::npos : pair.rfind(':', end - 1);
  if (colon == std::string_view::npos) return;  // "- " within a text, or a pair cut off before its value
  const std::string_view key = pair.substr(0, colon);
  if (!usable(key)) return;
  const auto value = believed ? parse_number(pair.substr(colon + 1)) : std::nullopt;
  if (value) found.points.push_back({std::string(key), *value});
  else found.unreadable.emplace_back(key);
}

std::optional<StepLine> parse_piece(std::string_view piece, bool whole) {
  StepLine found;
  while (const auto prefix = ray_prefix(piece)) {
    found.worker = prefix->worker;
    piece.remove_prefix(prefix->length);
  }
  std::size_t at = piece.find(kStep);
  while (at != std::string_view::npos &&
         !((at == 0 || !word_character(piece[at - 1])) && at + kStep.size() < piece.size() &&
           digit(piece[at + kStep.size()])))
    at = piece.find(kStep, at + 1);
  if (at == std::string_view::npos) return std::nullopt;

  // A prefix that stands right before `step:` names its worker; one after it belongs to somebody else's text.
  for (std::size_t begin = 0; begin < at;) {
    const std::size_t foreign = begin + foreign_text(piece.substr(begin, at - begin));
    if (foreign >= at) break;
    const auto prefix = ray_prefix(piece.substr(foreign));
    found.worker = prefix->worker;
    begin = foreign + prefix->length;
  }
  std::string_view rest = piece.substr(at + kStep.size());
  const std::size_t end = foreign_text(rest);
  const bool cut = end < rest.size() || !whole;
  rest = rest.substr(0, end);

  const auto [last, error] = std::from_chars(rest.data(), rest.data() + rest.size(), found.step);
  if (error != std::errc() || found.step > kLargestStep) return std::nullopt;
  rest.remove_prefix(static_cast<std::size_t>(last - rest.data()));
  if (rest.substr(0, kSeparator.size()) != kSeparator) return std::nullopt;
  rest.remove_prefix(kSeparator.size());
  while (found.points.size() + found.unreadable.size() < kMostPoints) {
    const std::size_t separator = rest.find(kSeparator);
    const bool is_last = separator == std::string_view::npos;
    take_pair(rest.substr(0, separator), !is_last || !cut, found);
    if (is_last) break;
    rest.remove_prefix(separator + kSeparator.size());
  }
  if (found.points.empty() && found.unreadable.empty()) return std::nullopt;
  return found;
}

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

std::optional<StepLine> parse_verl_line(std::string_view line, bool whole) {
  if (line.find(kStep) == std::string_view::npos) return std::nullopt;  // most lines: not worth a copy
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
  // A progress bar writes over itself; each piece between carriage returns was a line of its own to whoever watched.
  while (!line.empty()) {
    const std::size_t end = line.find('\r');
    const bool last = end == std::string_view::npos;
    if (auto found = parse_piece(without_controls(line.substr(0, end)), whole || !last)) return found;
    if (last) break;
    line.remove_prefix(end + 1);
  }
  return std::nullopt;
}

void VerlLog::line(std::string_view text, bool whole) {
  ++lines_;
  const auto found = parse_verl_line(text, whole);
  if (!found) return;
  const auto current = current_.find(found->worker);
  bool fresh = current == current_.end();
  if (!fresh) {
    const Run& run = runs_[current->second];
    const std::int64_t last = run.steps.empty() ? found->step : run.steps.rbegin()->first;
    fresh = found->step < last;
    if (const auto again = run.steps.find(found->step); !fresh && again != run.steps.end())
      for (const Point& point : found->points) {
        const auto former = again->second.find(point.key);
        fresh |= former != again->second.end() && !same(former->second, point.value);
      }
  }
  if (fresh) {
    current_[found->worker] = runs_.size();
    runs_.push_back({});
    runs_.back().worker = found->worker;
    runs_.back().first_line = lines_;
  }
  Run& run = runs_[current_.at(found->worker)];
  run.last_line = lines_;
  run.cut_off = !whole;
  run.unreadable += static_cast<std::int64_t>(found->unreadable.size());
  auto& values = run.steps[found->step];
  for (const Point& point : found->points) values[point.key] = point.value;
}

void VerlLog::text(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    line(text.substr(0, end), end != std::string_view::npos);
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

}  // namespace assay::console
