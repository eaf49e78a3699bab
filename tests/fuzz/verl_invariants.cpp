#include "verl_invariants.h"

#include <cmath>

#include "runner/console/number.h"
#include "runner/console/parser.h"
#include "runner/console/verl.h"

namespace assay::fuzz {
namespace {

using namespace console;

// Keys go to JSON lines and to the registry: nothing in them may break either.
std::string bad_key(const std::string& key) {
  if (key.empty() || key.size() > kLongestKey) return "a key of " + std::to_string(key.size()) + " bytes";
  if (without_controls(key) != key) return "a key with control characters or broken UTF-8";
  return "";
}

std::string bad_line(const StepLine& line) {
  if (line.step < 0 || line.step > kLargestStep) return "step " + std::to_string(line.step);
  if (line.points.size() + line.unreadable.size() > kMostPoints) return "too many points in a line";
  if (line.points.empty() && line.unreadable.empty()) return "a step line that says nothing";
  for (const Point& point : line.points)
    if (auto bad = bad_key(point.key); !bad.empty()) return bad;
  for (const std::string& key : line.unreadable)
    if (auto bad = bad_key(key); !bad.empty()) return bad;
  return "";
}

}  // namespace

std::string verl_finding(std::string_view text) {
  VerlLog whole, by_line;
  whole.text(text);
  const auto trl = make_parser("trl", "");
  static const auto pattern = [] { return make_parser("regex", R"((?<step>\d+)\D+(?<key>\w+)=(?<value>\S+))"); };
  const auto regex = pattern();
  std::int64_t lines = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    const bool complete = end != std::string_view::npos;
    by_line.line(line, complete);
    ++lines;
    if (const auto found = parse_verl_line(line, complete)) {
      if (auto bad = bad_line(*found); !bad.empty()) return "verl: " + bad;
      // What is not believed of a cut line must be a part of what the whole one says.
      if (const auto cut = parse_verl_line(line, false))
        if (cut->points.size() > parse_verl_line(line, true)->points.size()) return "verl: a cut line says more than the whole";
      if (const auto again = parse_verl_line(without_controls(line), complete); line.find('\r') == std::string_view::npos &&
                                                                                 again && again->step != found->step)
        return "verl: cleaning a line changes its step";
    }
    for (const auto* parser : {trl.get(), regex.get()})
      if (const auto found = const_cast<LineParser*>(parser)->line(line, complete))
        for (const Point& point : found->points)
          if (auto bad = bad_key(point.key); !bad.empty()) return "trl or regex: " + bad;
    if (!complete) break;
    rest.remove_prefix(end + 1);
  }
  if (whole.lines() != lines) return "lines are counted wrongly";
  if (whole.runs().size() != by_line.runs().size()) return "a log at once is another than line by line";
  std::int64_t before = 0;
  for (const VerlLog::Run& run : whole.runs()) {
    if (run.first_line <= before || run.last_line < run.first_line || run.last_line > lines) return "a run's lines are out of order";
    before = run.first_line;
    if (run.steps.empty()) return "a run without steps";
  }
  return "";
}

}  // namespace assay::fuzz
