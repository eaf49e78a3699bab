#include "trainer/grpo/metrics_log.h"

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

namespace assay::train {
namespace {

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

nlohmann::json json_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::string json_line(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

MetricsLog::MetricsLog(const std::filesystem::path& folder)
    : metrics_(folder / "metrics.jsonl"), events_(folder / "events.jsonl") {}

std::string MetricsLog::metrics(std::int64_t step, const Metrics& metrics) {
  nlohmann::json values = nlohmann::json::object();
  for (const auto& [key, value] : metrics) values[key] = json_number(value);
  const std::string line = json_line({{"step", step}, {"time", unix_now()}, {"metrics", values}});
  metrics_.write(line);
  return line;
}

void MetricsLog::event(std::int64_t step, const std::string& kind, const std::string& message) {
  event(step, kind, message, nlohmann::json::object());
}

void MetricsLog::event(std::int64_t step, const std::string& kind, const std::string& message,
                       const nlohmann::json& data) {
  events_.write(
      json_line({{"time", unix_now()}, {"step", step}, {"kind", kind}, {"message", message}, {"data", data}}));
}

}  // namespace assay::train
