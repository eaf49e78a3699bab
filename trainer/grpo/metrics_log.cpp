#include "trainer/grpo/metrics_log.h"

#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

namespace assay::train {
namespace {

namespace fs = std::filesystem;

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// A reader that has seen the torn bytes must not lose its place, so the file is not cut: blanks take their place.
void blank_torn_line(const fs::path& file) {
  const std::string text = support::read_file(file);
  const std::size_t whole = text.rfind('\n') + 1;  // npos + 1 is 0
  if (whole == text.size()) return;
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(whole));
  out << std::string(text.size() - whole, ' ') << '\n';
  out.flush();
  if (!out) throw std::runtime_error(file.string() + ": a torn last line cannot be overwritten");
}

// The lines behind byte `from`; blanked ones are left out.
std::vector<nlohmann::json> lines_behind(const fs::path& file, std::int64_t from) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(file, std::ios::binary);
  in.seekg(from);
  for (std::string line; std::getline(in, line);) {
    auto value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (value.is_object()) lines.push_back(std::move(value));
  }
  return lines;
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

bool is_volatile(const std::string& key) { return key.starts_with("timing_s/") || key.starts_with("perf/"); }

MetricsLog::MetricsLog(const fs::path& folder) : folder_(folder) {
  metrics_.emplace(folder / "metrics.jsonl");
  events_.emplace(folder / "events.jsonl");
  if (!metrics_->lock()) throw std::runtime_error(folder.string() + ": another process is at work on this run");
  for (const auto* file : {"metrics.jsonl", "events.jsonl"}) blank_torn_line(folder / file);
}

std::string MetricsLog::metrics(std::int64_t step, const Metrics& metrics) {
  nlohmann::json values = nlohmann::json::object();
  nlohmann::json differing = nlohmann::json::array();
  for (const auto& [key, value] : metrics) {
    values[key] = json_number(value);
    if (earlier_.empty() || is_volatile(key)) continue;
    const auto found = earlier_.find({step, key});
    if (found != earlier_.end() && found->second != values[key].dump()) differing.push_back(key);
  }
  const std::string line = json_line({{"step", step}, {"time", unix_now()}, {"metrics", values}});
  if (metrics_) metrics_->write(line);
  if (!differing.empty() && !said_differs_) {
    said_differs_ = true;
    event(step, "finding",
          "after resuming, " + std::to_string(differing.size()) + " metrics of step " + std::to_string(step) +
              " are not what they were before the interruption, " + differing.front().get<std::string>() +
              " among them; was it another machine or another build?",
          {{"id", "replay-differs"}, {"keys", differing}});
  }
  return line;
}

void MetricsLog::event(std::int64_t step, const std::string& kind, const std::string& message) {
  event(step, kind, message, nlohmann::json::object());
}

void MetricsLog::event(std::int64_t step, const std::string& kind, const std::string& message,
                       const nlohmann::json& data) {
  if (!events_ || told_.contains({step, kind, message})) return;
  events_->write(
      json_line({{"time", unix_now()}, {"step", step}, {"kind", kind}, {"message", message}, {"data", data}}));
}

MetricsLog::End MetricsLog::sync() {
  if (!metrics_) return {};
  metrics_->sync();
  events_->sync();
  return {metrics_->size(), events_->size()};
}

void MetricsLog::replay_from(const End& end) {
  if (!metrics_) return;
  for (const auto& line : lines_behind(folder_ / "metrics.jsonl", end.metrics))
    for (const auto& [key, value] : line.at("metrics").items())
      earlier_[{line.at("step").get<std::int64_t>(), key}] = value.dump();
  for (const auto& line : lines_behind(folder_ / "events.jsonl", end.events)) {
    const std::string kind = line.at("kind");
    // These say what happened to the process, and do so each time.
    if (kind != "started" && kind != "resumed" && kind != "terminated" && kind != "finished" && kind != "non_finite")
      told_.insert({line.at("step").get<std::int64_t>(), kind, line.at("message").get<std::string>()});
  }
}

}  // namespace assay::train
