#include "reports/exports.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "reports/text.h"

namespace assay::report {
namespace {

using nlohmann::ordered_json;

std::string word(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return shortest(value);
}

ordered_json number(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(word(value));
}

std::string or_dash(const std::string& text) { return text.empty() ? "-" : text; }
std::string time_cell(double time) { return time > 0 ? shortest(time) : "-"; }

std::vector<std::string> head_of(const ExportedRun& run) {
  return {std::to_string(run.number), run.series, run.id, std::to_string(run.seed)};
}

std::string line(std::vector<std::string> cells, const std::vector<std::string>& more) {
  cells.insert(cells.end(), more.begin(), more.end());
  return csv_line(cells);
}

ordered_json document(const ExportedRun& run) {
  ordered_json config = ordered_json::object();
  for (const auto& [key, value] : run.config) {
    ordered_json parsed = ordered_json::parse(value, nullptr, false);
    config[key] = parsed.is_discarded() ? ordered_json(value) : std::move(parsed);
  }
  ordered_json metrics = ordered_json::array();
  for (const ExportedPoint& point : run.points) {
    if (metrics.empty() || metrics.back().at("step") != point.step)
      metrics.push_back({{"step", point.step}, {"time", point.time}, {"metrics", ordered_json::object()}});
    metrics.back()["metrics"][point.key] = number(point.value);
  }
  ordered_json evaluations = ordered_json::array();
  for (const ExportedEvaluation& each : run.evaluations) {
    ordered_json outcomes = ordered_json::array();
    for (const ExportedOutcome& outcome : each.outcomes) outcomes.push_back(outcome.outcome);
    evaluations.push_back({{"step", each.step},
                           {"problems", each.problems},
                           {"correct", each.correct},
                           {"format_right", each.format_right},
                           {"arithmetic_right", each.arithmetic_right},
                           {"quant", each.quant},
                           {"trained_quant", each.trained_quant},
                           {"data_sha256", each.data_sha256},
                           {"outcomes", std::move(outcomes)}});
  }
  const auto time = [](double seconds) { return seconds > 0 ? ordered_json(seconds) : ordered_json(nullptr); };
  return {{"run", run.number},
          {"series", run.series},
          {"id", run.id},
          {"seed", run.seed},
          {"title", run.title},
          {"hypothesis", run.hypothesis},
          {"baseline", run.baseline},
          {"state", run.state},
          {"detail", run.detail},
          {"created", time(run.created)},
          {"started", time(run.started)},
          {"ended", time(run.ended)},
          {"config_sha256", run.config_sha256},
          {"commit", run.commit},
          {"folder", run.folder},
          {"config", std::move(config)},
          {"metrics", std::move(metrics)},
          {"evaluations", std::move(evaluations)}};
}

std::string dumped(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string export_metrics_csv(const std::vector<ExportedRun>& runs) {
  std::string text = csv_line({"run", "series", "id", "seed", "step", "time", "metric", "value"});
  for (const ExportedRun& run : runs)
    for (const ExportedPoint& point : run.points)
      text += line(head_of(run), {std::to_string(point.step), time_cell(point.time), point.key, word(point.value)});
  return text;
}

std::string export_runs_csv(const std::vector<ExportedRun>& runs) {
  std::set<std::string> keys;
  for (const ExportedRun& run : runs)
    for (const auto& [key, value] : run.config) keys.insert(key);
  std::vector<std::string> head = {"run", "series", "id", "seed", "title", "hypothesis", "baseline", "state", "detail",
                                   "created", "started", "ended", "config_sha256", "commit", "folder"};
  head.insert(head.end(), keys.begin(), keys.end());
  std::string text = csv_line(head);
  for (const ExportedRun& run : runs) {
    std::vector<std::string> cells = {or_dash(run.title), or_dash(run.hypothesis), or_dash(run.baseline), run.state,
                                      or_dash(run.detail), time_cell(run.created), time_cell(run.started),
                                      time_cell(run.ended), run.config_sha256, or_dash(run.commit), run.folder};
    const std::map<std::string, std::string> config(run.config.begin(), run.config.end());
    for (const std::string& key : keys) {
      const auto found = config.find(key);
      if (found == config.end()) {
        cells.push_back("-");
        continue;
      }
      const ordered_json value = ordered_json::parse(found->second, nullptr, false);
      cells.push_back(value.is_string() ? value.get<std::string>() : found->second);
    }
    text += line(head_of(run), cells);
  }
  return text;
}

std::string export_evaluations_csv(const std::vector<ExportedRun>& runs) {
  std::string text = csv_line({"run", "series", "id", "seed", "step", "problems", "correct", "format_right",
                               "arithmetic_right", "quant", "trained_quant", "data_sha256"});
  for (const ExportedRun& run : runs)
    for (const ExportedEvaluation& each : run.evaluations)
      text += line(head_of(run), {std::to_string(each.step), std::to_string(each.problems), std::to_string(each.correct),
                                  std::to_string(each.format_right), std::to_string(each.arithmetic_right),
                                  or_dash(each.quant), or_dash(each.trained_quant), or_dash(each.data_sha256)});
  return text;
}

std::string export_outcomes_csv(const std::vector<ExportedRun>& runs) {
  std::string text = csv_line({"run", "series", "id", "seed", "step", "problem", "outcome"});
  for (const ExportedRun& run : runs)
    for (const ExportedEvaluation& each : run.evaluations)
      for (const ExportedOutcome& outcome : each.outcomes)
        text += line(head_of(run), {std::to_string(each.step), std::to_string(outcome.index), outcome.outcome});
  return text;
}

std::string other_quant_words(const ExportedRun& run) {
  std::string words;
  for (const ExportedEvaluation& each : run.evaluations)
    if (each.problems > 0 && each.quant != each.trained_quant)
      words += (words.empty() ? "step " : "; step ") + std::to_string(each.step) + " measured under " + or_dash(each.quant) +
               ", trained under " + or_dash(each.trained_quant);
  return words;
}

std::string export_json(const std::vector<ExportedRun>& runs) {
  ordered_json all = ordered_json::array();
  for (const ExportedRun& run : runs) all.push_back(document(run));
  return dumped(all, 2);
}

std::string export_jsonl(const std::vector<ExportedRun>& runs) {
  std::string text;
  for (const ExportedRun& run : runs) text += dumped(document(run), -1);
  return text;
}

}  // namespace assay::report
