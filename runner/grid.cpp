#include "runner/grid.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "experiments/spec/fields.h"
#include "runner/comparison.h"
#include "runner/errors.h"
#include "runner/series_log.h"
#include "support/files.h"
#include "support/suggest.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;
using registry::RunRow;

std::string step_file(const RunRow& row, std::int64_t step) {
  char name[48];
  std::snprintf(name, sizeof name, "step-%06lld.jsonl", static_cast<long long>(step));
  return (fs::path(row.folder) / "eval" / name).string();
}

std::vector<json> read_lines(const std::string& file) {
  std::vector<json> lines;
  std::istringstream in(support::read_file(file));
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) lines.push_back(json::parse(line));
  return lines;
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

report::Answer answer_of(const json& line) {
  return {text_of(line, "outcome"), text_of(line, "completion"), text_of(line, "outcome") == "correct"};
}

}  // namespace

void check_config_key(const std::string& option, const std::string& key) {
  if (spec::find_field(key) != nullptr) return;
  throw UserError(kUsage, option + " " + key + ": it is no config key" + support::did_you_mean(key, spec::field_keys()) +
                              "; docs/series.md lists them");
}

void filter_runs(std::vector<RunRow>& rows, const std::vector<std::string>& where) {
  for (const std::string& entry : where) {
    const auto equals = entry.find('=');
    if (equals == std::string::npos || equals == 0)
      throw UserError(kUsage, "--where " + entry + ": it is not KEY=VALUE; write for example --where quant.format=nvfp4");
    const std::string key = entry.substr(0, equals), value = entry.substr(equals + 1);
    const bool own = key == "id" || key == "seed" || key == "series" || key == "state";
    if (!own) check_config_key("--where", key);
    std::erase_if(rows, [&](const RunRow& row) {
      if (key == "id") return row.run != value;
      if (key == "seed") return std::to_string(row.seed) != value;
      if (key == "series") return row.series != value;
      if (key == "state") return std::string(registry::name(row.state.kind)) != value;
      const auto dot = key.find('.');
      const json config = json::parse(row.config_json);
      const auto section = config.find(key.substr(0, dot));
      if (section == config.end()) return true;
      const auto found = section->find(key.substr(dot + 1));
      if (found == section->end()) return true;
      return (found->is_string() ? found->get<std::string>() : found->dump()) != value;
    });
  }
}

std::vector<report::GridRun> grid_runs(const Registry& registry, const std::vector<RunRow>& rows, const report::GridOptions& options) {
  std::vector<report::GridRun> runs;
  for (const RunRow& row : rows) {
    report::GridRun run{logged_run(registry, row), row.series, {}};
    if (!options.metric.empty())
      for (const registry::MetricPoint& point : registry.metrics(row.number, options.metric))
        run.metrics[options.metric].emplace_back(point.step, point.value);
    runs.push_back(std::move(run));
  }
  std::map<std::string, std::vector<report::RunResult*>> by_series;
  for (report::GridRun& run : runs) by_series[run.series].push_back(&run.run.result);
  for (const auto& [id, of_it] : by_series) take_exclusions(registry, id, of_it);
  if (!options.metric.empty() &&
      std::all_of(runs.begin(), runs.end(), [](const report::GridRun& run) { return run.metrics.empty(); }) && !rows.empty()) {
    std::set<std::string> known;
    for (const registry::MetricPoint& point : registry.metrics(rows.front().number)) known.insert(point.key);
    throw UserError(kNoSuchRun, "--metric " + options.metric + ": none of these runs has it" +
                                    support::did_you_mean(options.metric, {known.begin(), known.end()}) +
                                    "; `assay-train` writes names such as critic/score/mean and actor/grad_norm");
  }
  return runs;
}

Problems problem_pairs(const Registry& registry, const RunRow& first, const RunRow& second, std::int64_t step) {
  const auto name = [](const RunRow& row) { return "run " + std::to_string(row.number) + " (" + row.run + ")"; };
  std::set<std::int64_t> steps;
  const auto a = registry.evaluations(first.number, false), b = registry.evaluations(second.number, false);
  const registry::Evaluation *one = nullptr, *two = nullptr;
  for (const auto& x : a)
    for (const auto& y : b)
      if (x.step == y.step) {
        steps.insert(x.step);
        if (step < 0 || x.step == step) one = &x, two = &y;
      }
  if (one == nullptr)
    throw UserError(kNoSuchRun, "problems: " + name(first) + " and " + name(second) + " have no evaluation at the same step" +
                                    (step < 0 ? "" : " " + std::to_string(step)) + "; `assay compare " + std::to_string(first.number) + " " +
                                    std::to_string(second.number) + " --stepwise` shows the steps there are");
  if (one->data_sha256 != two->data_sha256 || one->problems != two->problems)
    throw UserError(kRefused, "problems: " + name(first) + " and " + name(second) +
                                  (one->problems != two->problems ? " were measured on " + std::to_string(one->problems) + " and " + std::to_string(two->problems) + " problems"
                                                                  : std::string(" were measured on different test files")) +
                                  ", so their problems cannot be paired; compare their accuracies instead");
  for (const RunRow* row : {&first, &second})
    if (!fs::exists(step_file(*row, one->step)))
      throw UserError(kNoSuchRun, "problems: " + step_file(*row, one->step) + ": the outcomes of the single problems of " + name(*row) +
                                      " are not known; compare the accuracies instead");
  std::vector<json> questions;
  const std::string data = json::parse(first.derived_json).value("test_path", "");
  if (std::error_code error; !data.empty() && fs::exists(data, error) && support::sha256_file(data) == one->data_sha256)
    questions = read_lines(data);   // another file by now has other questions: left out
  std::map<std::int64_t, report::ProblemPair> pairs;
  for (const json& line : read_lines(step_file(first, one->step))) {
    const auto index = line.at("index").get<std::int64_t>();
    report::ProblemPair& pair = pairs[index];
    pair.index = index;
    pair.first = answer_of(line);
    if (index >= 0 && index < std::ssize(questions)) {
      pair.question = text_of(questions[static_cast<std::size_t>(index)], "question");
      const std::string gold = text_of(questions[static_cast<std::size_t>(index)], "answer");
      const auto marks = gold.rfind("#### ");
      pair.gold = marks == std::string::npos ? gold : gold.substr(marks + 5);
    }
  }
  for (const json& line : read_lines(step_file(second, one->step))) {
    const auto found = pairs.find(line.at("index").get<std::int64_t>());
    if (found != pairs.end()) found->second.second = answer_of(line);
  }
  const auto label = [&](const RunRow& row) { return first.run == second.run ? row.run + " (" + std::to_string(row.number) + ")" : row.run; };
  Problems problems{label(first), label(second), one->step, {steps.begin(), steps.end()}, {}};
  for (auto& [index, pair] : pairs) problems.pairs.push_back(std::move(pair));
  return problems;
}

}  // namespace assay::runner
