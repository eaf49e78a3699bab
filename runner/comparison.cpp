#include "runner/comparison.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace assay::runner {
namespace {

using nlohmann::json;
using registry::Registry;
using registry::RunRow;

report::EvalPoint point(const registry::Evaluation& evaluation) {
  report::EvalPoint result;
  result.step = evaluation.step;
  result.problems = evaluation.problems;
  result.correct = evaluation.correct;
  result.quant = evaluation.quant;
  result.trained_quant = evaluation.trained_quant;
  result.data_sha256 = evaluation.data_sha256;
  // By problem, in the order of their numbers: paired tests need every problem at its place.
  bool whole = static_cast<std::int64_t>(evaluation.outcomes.size()) == evaluation.problems;
  for (std::size_t i = 0; whole && i < evaluation.outcomes.size(); ++i)
    whole = evaluation.outcomes[i].index == static_cast<std::int64_t>(i);
  if (whole)
    for (const registry::Outcome& outcome : evaluation.outcomes) result.outcomes.push_back(outcome.correct);
  return result;
}

std::optional<double> percent_or_none(const json& published, const char* key) {
  const auto found = published.find(key);
  if (found == published.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

}  // namespace

report::RunResult run_result(const Registry& registry, const RunRow& row, const CompareChoice& choice) {
  const json config = json::parse(row.config_json);
  const json run = json::parse(row.run_json);
  const json& quant = config.at("quant");
  report::RunResult result;
  result.number = row.number;
  result.id = row.run;
  result.title = run.value("title", "");
  result.format = quant.at("format").get<std::string>();
  result.hook = result.blocking = result.ste = "-";
  if (result.format != "none") {
    const std::string where = quant.at("injection_point").get<std::string>();
    if (where != "activation") result.blocking = quant.at("blocking").get<std::string>();
    if (where != "weight") {   // weights are quantized once, outside the forward pass: no hook, no estimator
      result.hook = quant.at("hook").get<std::string>();
      result.ste = quant.at("ste").get<bool>() ? "yes" : "no";
    }
  }
  for (const json& missing : run.value("missing", json::array()))   // imported without a config that says it
    if (missing == "quantization") result.format = "unknown";
  result.baseline = run.value("baseline", "");
  result.excluded = run.value("labels", json::object()).value("excluded", "");
  result.seed = row.seed;
  result.state = registry::name(row.state.kind);
  result.state_detail = row.state.detail;
  result.steps = config.at("train").at("steps").get<std::int64_t>();
  if (config.at("train").value("epochs", std::int64_t{0}) > 0)  // counted when the run was queued
    result.steps = json::parse(row.derived_json).value("total_steps", result.steps);
  const json published = run.value("published", json::object());
  result.published_first = percent_or_none(published, "first");
  result.published_last = percent_or_none(published, "last");
  const std::int64_t first = choice.first.value_or(0), last = choice.last.value_or(result.steps);
  for (const registry::Evaluation& evaluation : registry.evaluations(row.number, true)) {
    if (evaluation.step == first) result.first = point(evaluation);
    if (evaluation.step == last) result.last = point(evaluation);
  }
  // Of the last training step; an evaluation's own line carries none of these.
  const auto last_value = [&](const char* key) -> std::optional<double> {
    return registry.last_value(row.number, key);
  };
  const auto count = [&](const char* key) -> std::optional<std::int64_t> {
    const auto value = last_value(key);
    if (!value || !std::isfinite(*value)) return std::nullopt;
    return std::llround(*value);
  };
  result.training_score = last_value("critic/score/mean");
  result.adapters_with_gradient = count("actor/grad_tensors");
  result.adapter_tensors = count("actor/adapter_tensors");
  return result;
}

namespace {

std::optional<RunRow> latest(const Registry& registry, const std::string& series, const std::string& run,
                             std::int64_t seed) {
  Registry::RunFilter filter;
  if (!series.empty()) filter.series = series;
  filter.run = run;
  filter.seed = seed;
  std::vector<RunRow> rows = registry.runs(filter);  // by number
  if (rows.empty()) return std::nullopt;
  for (auto row = rows.rbegin(); row != rows.rend(); ++row)  // not a repetition by `assay verify`, if there is another
    if (row->run_json.find("\"verifies\":") == std::string::npos) return std::move(*row);
  return std::move(rows.back());
}

}  // namespace

void take_exclusions(const Registry& registry, const std::string& series, const std::vector<report::RunResult*>& runs) {
  const std::vector<registry::Record> records = registry.records_of_series(series);
  for (const bool own : {false, true})
    for (const registry::Record& record : records)
      if (record.kind == "tag" && record.subject == "excluded" && record.newest && !record.withdrawn && (record.run != 0) == own)
        for (report::RunResult* run : runs)
          if (own ? record.run == run->number : record.run_id == run->id)
            run->excluded = record.text.empty() ? "tagged excluded" : record.text;
}

std::vector<report::RunResult> results(const Registry& registry, const std::vector<RunRow>& rows,
                                       const CompareChoice& choice) {
  std::vector<report::RunResult> all;
  std::vector<std::string> series_of;   // of each
  std::set<std::pair<std::string, std::int64_t>> have;
  for (const RunRow& row : rows) {
    all.push_back(run_result(registry, row, choice));
    series_of.push_back(row.series);
    have.insert({row.run, row.seed});
  }
  for (const RunRow& row : rows) {
    const json run = json::parse(row.run_json);
    const std::string baseline = choice.baseline.empty() ? run.value("baseline", "") : choice.baseline;
    if (baseline.empty() || !have.insert({baseline, row.seed}).second) continue;
    std::string series = choice.baseline.empty() ? run.value("baseline_series", "") : "";
    if (series.empty()) series = row.series;
    auto found = latest(registry, series, baseline, row.seed);
    if (!found) found = latest(registry, "", baseline, row.seed);
    if (!found) continue;
    all.push_back(run_result(registry, *found, choice));
    series_of.push_back(found->series);
  }
  std::map<std::string, std::vector<report::RunResult*>> by_series;
  for (std::size_t i = 0; i < all.size(); ++i) by_series[series_of[i]].push_back(&all[i]);
  for (const auto& [id, runs] : by_series) take_exclusions(registry, id, runs);
  return all;
}

report::CompareOptions compare_options(const Registry& registry, const std::vector<RunRow>& rows,
                                       const CompareChoice& choice) {
  report::CompareOptions options;
  options.baseline = choice.baseline;
  if (rows.empty()) return options;
  if (const auto series = registry.series(rows.front().series))
    options.success_accuracy = json::parse(series->json).value("success_accuracy", options.success_accuracy);
  return options;
}

}  // namespace assay::runner
