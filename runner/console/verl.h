// verl's console log: one line per training step, `step:N - key:value - key:value …`, as Python prints the values.
//
// Pure: text in, numbers out. `assay import verl` reads finished logs with VerlLog; a run with trainer.metrics = "verl"
// reads its own console line by line (parser.h). Format: the lines of verl's console logger, in which Ray puts
// `(TaskRunner pid=4711) ` or `(TaskRunner pid=4711, ip=10.0.0.7) ` before what another process printed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace assay::console {

struct Point {
  std::string key;
  double value;
  bool operator==(const Point&) const = default;
};

// What one line of a console says about one step.
struct StepLine {
  std::int64_t step = 0;
  std::vector<Point> points;            // in the order of the line; a key that comes twice stands here twice
  std::vector<std::string> unreadable;  // keys whose value is no number ("None", a text, one that was cut off)
  std::string worker;                   // "TaskRunner pid=4711"; empty: no prefix
};

constexpr std::int64_t kLargestStep = 1'000'000'000'000;   // a longer number is no step
constexpr std::size_t kLongestKey = 300;                   // bytes
constexpr std::size_t kMostPoints = 10'000;                // of one line

// One line without its newline. `whole`: its newline was there; without it the last pair may be cut off anywhere and is
// not believed. Nothing when it is no step line. Handles escape sequences, a progress bar that was overwritten with a
// carriage return, text before `step:`, and another process's prefixed text that cuts into the line.
std::optional<StepLine> parse_verl_line(std::string_view line, bool whole = true);

// A whole log, fed line by line or at once; several runs in one file come apart.
//
// A run is what one worker printed with steps that rise. The next one begins when the step of the same worker falls, or
// comes again with keys it already had and other values. A line that comes twice counts once.
class VerlLog {
 public:
  struct Run {
    std::string worker;
    std::int64_t first_line = 0, last_line = 0;            // counted from 1
    std::map<std::int64_t, std::map<std::string, double>> steps;
    std::int64_t unreadable = 0;                           // values that were no numbers
    bool cut_off = false;                                  // its last line had no newline
  };

  void line(std::string_view text, bool whole = true);
  void text(std::string_view text);                        // whole lines; only the last may lack its newline
  const std::vector<Run>& runs() const { return runs_; }   // in the order of their first line
  std::int64_t lines() const { return lines_; }

 private:
  std::vector<Run> runs_;
  std::map<std::string, std::size_t> current_;             // worker -> its latest run
  std::int64_t lines_ = 0;
};

}  // namespace assay::console
