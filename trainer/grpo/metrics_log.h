// The run folder's metrics.jsonl and events.jsonl (docs/run-folder.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "support/files.h"

namespace assay::train {

using Metrics = std::map<std::string, double>;

// NaN and infinities as the strings "nan", "inf", "-inf": JSON has no word for them.
nlohmann::json json_number(double value);

// One line of JSON. Text that is not UTF-8 (a path may be anything) gets U+FFFD for its broken bytes.
std::string json_line(const nlohmann::json& value);

class MetricsLog {
 public:
  // Throws std::runtime_error when the folder cannot be written.
  explicit MetricsLog(const std::filesystem::path& folder);
  std::string metrics(std::int64_t step, const Metrics& metrics);  // returns the line written
  void event(std::int64_t step, const std::string& kind, const std::string& message);
  void event(std::int64_t step, const std::string& kind, const std::string& message, const nlohmann::json& data);

 private:
  support::LineWriter metrics_, events_;
};

}  // namespace assay::train
