// One line of metrics.jsonl, as docs/run-folder.md says it: {"step": 3, "time": 1.5, "metrics": {"loss": 0.25, …}}.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace assay::runner {

inline constexpr std::size_t kLongestKey = 500;      // bytes of a metric's name
inline constexpr std::size_t kMostMetrics = 10'000;  // of one line

// Reused from line to line: the strings keep their memory.
struct MetricsLine {
  struct Value {
    std::string key;
    double value = 0;
  };
  std::int64_t step = 0;
  std::optional<double> time;
  std::vector<Value> values;   // the first `count` of them; a key that comes twice is in it twice, the last one counts
  std::size_t count = 0;
};

// Reads it without building a tree: memory in proportion to the line, whatever it holds. Other keys beside the three are
// passed over, nested at most 64 deep. Returns what is wrong with it, empty when nothing is; `torn`: it is not whole JSON,
// as a line that was cut off is.
std::string read_metrics_line(std::string_view line, MetricsLine& out, bool& torn);

}  // namespace assay::runner
