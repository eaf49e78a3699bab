#include "runner/exporting.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void flatten(const json& value, const std::string& name, std::vector<std::pair<std::string, std::string>>& out) {
  if (value.is_object()) {
    for (const auto& [key, member] : value.items()) flatten(member, name.empty() ? key : name + "." + key, out);
    return;
  }
  out.emplace_back(name, value.dump(-1, ' ', false, json::error_handler_t::replace));
}

// Step -> time of its first line.
std::map<std::int64_t, double> step_times(const fs::path& file) {
  std::map<std::int64_t, double> times;
  std::error_code none;
  if (!fs::exists(file, none)) return times;
  const std::string text = support::read_file(file);
  for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    const json line = json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!line.is_object() || !line.contains("step") || !line.contains("time")) continue;
    if (!line.at("step").is_number_integer() || !line.at("time").is_number()) continue;
    times.emplace(line.at("step").get<std::int64_t>(), line.at("time").get<double>());
  }
  return times;
}

}  // namespace

std::vector<report::ExportedRun> exported_runs(const registry::Registry& registry,
                                               const std::vector<registry::RunRow>& rows, bool outcomes) {
  std::vector<report::ExportedRun> runs;
  for (const registry::RunRow& row : rows) {
    report::ExportedRun& run = runs.emplace_back();
    const json document = json::parse(row.run_json, nullptr, false);
    const auto text = [&](const char* key) { return document.is_object() ? document.value(key, "") : std::string(); };
    run.number = row.number;
    run.seed = row.seed;
    run.series = row.series;
    run.id = row.run;
    run.title = text("title");
    run.hypothesis = text("hypothesis");
    run.baseline = text("baseline");
    run.state = registry::name(row.state.kind);
    run.detail = row.state.detail;
    run.config_sha256 = row.config_sha256;
    run.folder = row.folder;
    run.created = row.created;
    run.started = row.started;
    run.ended = row.ended;
    if (const auto facts = registry.facts(row.number)) {
      const json code = json::parse(facts->code_json, nullptr, false);
      if (code.is_object() && code.contains("user") && code.at("user").is_object()) {
        const json& commit = code.at("user").value("commit", json());
        if (commit.is_string()) run.commit = commit.get<std::string>();
      }
    }
    flatten(json::parse(row.config_json), "", run.config);
    const auto times = step_times(fs::path(row.folder) / "metrics.jsonl");
    for (const registry::MetricPoint& point : registry.metrics(row.number)) {
      const auto time = times.find(point.step);
      run.points.push_back({point.step, time == times.end() ? run.started : time->second, point.key, point.value});
    }
    for (const registry::Evaluation& each : registry.evaluations(row.number, outcomes)) {
      report::ExportedEvaluation evaluation{each.step,  each.problems,      each.correct,     each.format_right, each.arithmetic_right,
                                            each.quant, each.trained_quant, each.data_sha256, {}};
      for (const registry::Outcome& outcome : each.outcomes) evaluation.outcomes.push_back({outcome.index, outcome.outcome});
      run.evaluations.push_back(std::move(evaluation));
    }
  }
  return runs;
}

}  // namespace assay::runner
