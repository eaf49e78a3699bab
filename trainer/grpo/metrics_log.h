// The run folder's metrics.jsonl and events.jsonl (docs/run-folder.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "support/files.h"

namespace assay::train {

using Metrics = std::map<std::string, double>;

// NaN and infinities as the strings "nan", "inf", "-inf": JSON has no word for them.
nlohmann::json json_number(double value);

// One line of JSON. Text that is not UTF-8 (a path may be anything) gets U+FFFD for its broken bytes.
std::string json_line(const nlohmann::json& value);

// Keys that two runs of the same config need not have in common: timing_s/*, perf/*.
bool is_volatile(const std::string& key);

class MetricsLog {
 public:
  // Throws std::runtime_error when the folder cannot be written or another process writes it. A last line without its
  // newline, as a crash leaves it, is blanked out.
  explicit MetricsLog(const std::filesystem::path& folder);
  MetricsLog() = default;  // writes nothing: a rank that does not lead
  std::string metrics(std::int64_t step, const Metrics& metrics);  // returns the line written
  void event(std::int64_t step, const std::string& kind, const std::string& message);
  void event(std::int64_t step, const std::string& kind, const std::string& message, const nlohmann::json& data);

  // How much has been written so far; both files are on disk when it returns.
  struct End {
    std::int64_t metrics = 0, events = 0;  // bytes
  };
  End sync();
  // The run goes on from where the files ended at `end`: what stands behind it will be computed again. Steps written
  // again are compared with what stands there, and a `finding` says which keys differ; events that stand there already
  // (the same step, kind and message) are not repeated.
  void replay_from(const End& end);

 private:
  std::filesystem::path folder_;
  std::optional<support::LineWriter> metrics_, events_;
  std::map<std::pair<std::int64_t, std::string>, std::string> earlier_;  // (step, key) -> value
  std::set<std::tuple<std::int64_t, std::string, std::string>> told_;    // (step, kind, message)
  bool said_differs_ = false;
};

}  // namespace assay::train
