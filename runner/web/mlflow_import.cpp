#include "runner/web/mlflow_import.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "experiments/spec/canonical.h"
#include "experiments/spec/fields.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/web/mlflow.h"
#include "support/files.h"

namespace assay::runner {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// [a-z0-9][a-z0-9._-]*, as ids are here.
std::string as_id(const std::string& name) {
  std::string id;
  for (const char c : name) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    const bool plain = (lower >= 'a' && lower <= 'z') || (lower >= '0' && lower <= '9');
    if (plain || ((lower == '.' || lower == '_' || lower == '-') && !id.empty())) id += lower;
    else if (!id.empty() && id.back() != '-') id += '-';
  }
  while (!id.empty() && id.back() == '-') id.pop_back();
  return id.empty() ? "run" : id.substr(0, 80);
}

double metric_value(const json& value, const std::string& key) {
  if (value.is_number()) return value.get<double>();
  const std::string word = value.is_string() ? value.get<std::string>() : "";
  if (word == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (word == "Infinity") return std::numeric_limits<double>::infinity();
  if (word == "-Infinity") return -std::numeric_limits<double>::infinity();
  throw UserError(kRefused, "mlflow: it gives " + dump(value) + " as a value of the metric " + key + ", which is no number");
}

// Protobuf's JSON writes 64-bit integers as strings.
std::int64_t integer(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return 0;
  if (found->is_number_integer()) return found->get<std::int64_t>();
  std::int64_t value = 0;
  if (found->is_string()) {
    const std::string& text = found->get_ref<const std::string&>();
    std::from_chars(text.data(), text.data() + text.size(), value);
  }
  return value;
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

struct There {                         // a run as the server has it
  std::string id, name, status;
  double started = 0, ended = 0;       // unix seconds
  std::map<std::string, std::string> parameters, tags;
  std::map<std::int64_t, std::map<std::string, double>> metrics;
};

std::vector<json> all_runs(Mlflow& server, const std::string& experiment) {
  std::vector<json> runs;
  std::string token;
  do {
    json body = {{"experiment_ids", {experiment}}, {"max_results", 200}};
    if (!token.empty()) body["page_token"] = token;
    const json page = server.post("runs/search", body);
    for (const json& run : page.value("runs", json::array())) runs.push_back(run);
    token = page.value("next_page_token", "");
  } while (!token.empty());
  return runs;
}

void read_history(Mlflow& server, const std::string& key, There& run) {
  std::string token;
  do {
    const json page = server.get("metrics/get-history", "run_id=" + web::percent_encoded(run.id) + "&metric_key=" + web::percent_encoded(key) +
                                                            "&max_results=25000" + (token.empty() ? "" : "&page_token=" + web::percent_encoded(token)));
    if (!page.is_object()) return;
    for (const json& point : page.value("metrics", json::array())) run.metrics[integer(point, "step")][key] = metric_value(point.at("value"), key);
    token = page.value("next_page_token", "");
  } while (!token.empty());
}

There read_run(Mlflow& server, const json& run) {
  There there;
  const json& info = run.at("info");
  const json data = run.value("data", json::object());
  there.id = text_of(info, "run_id");
  there.name = text_of(info, "run_name").empty() ? there.id : text_of(info, "run_name");
  there.status = text_of(info, "status");
  there.started = static_cast<double>(integer(info, "start_time")) / 1000;
  there.ended = static_cast<double>(integer(info, "end_time")) / 1000;
  for (const json& parameter : data.value("params", json::array())) there.parameters[text_of(parameter, "key")] = text_of(parameter, "value");
  for (const json& tag : data.value("tags", json::array())) there.tags[text_of(tag, "key")] = text_of(tag, "value");
  for (const json& metric : data.value("metrics", json::array())) read_history(server, text_of(metric, "key"), there);
  return there;
}

std::string tag(const There& run, const char* name) {
  const auto found = run.tags.find(name);
  return found == run.tags.end() ? "" : found->second;
}

std::int64_t seed_of(const There& run) {
  for (const char* key : {"train.seed", "seed"}) {
    const auto found = run.parameters.find(key);
    if (found == run.parameters.end()) continue;
    std::int64_t seed = 0;
    const std::string& text = found->second;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), seed);
    if (bad == std::errc() && end == text.data() + text.size() && seed >= 0) return seed;
  }
  return 1;
}

registry::State state_of(const There& run) {
  if (run.status == "FINISHED") return {registry::StateKind::succeeded, {}, {}, ""};
  const std::string detail = tag(run, "assay.detail");
  return {run.status == "KILLED" ? registry::StateKind::killed : registry::StateKind::failed, {}, {},
          detail.empty() ? "MLflow says " + run.status : detail};
}

// Parameters that are keys here, where the value is one that the key takes.
spec::Config config_of(const There& run, std::set<std::string>& taken) {
  spec::Config config;
  config.trainer.kind = "command";
  config.trainer.argv = {"mlflow"};   // what trained it is not known here
  for (const auto& [key, text] : run.parameters) {
    const spec::Field* field = spec::find_field(key);
    if (field == nullptr || key == "trainer.kind" || key == "trainer.argv") continue;
    std::optional<spec::Value> value;
    if (std::holds_alternative<std::string>(field->get(config))) value = text;
    else if (const json parsed = json::parse(text, nullptr, false); parsed.is_boolean()) value = parsed.get<bool>();
    else if (parsed.is_number_integer()) value = parsed.get<std::int64_t>();
    else if (parsed.is_number()) value = parsed.get<double>();
    else if (parsed.is_array() && std::all_of(parsed.begin(), parsed.end(), [](const json& each) { return each.is_string(); }))
      value = parsed.get<spec::Strings>();
    if (!value) continue;
    const auto accepted = spec::accept(*field, *value);
    if (!std::holds_alternative<spec::Value>(accepted)) continue;
    field->set(config, std::get<spec::Value>(accepted));
    taken.insert(key);
  }
  return config;
}

struct Measured {                      // what the named accuracy was measured on
  std::int64_t problems = 0;
  std::string sha256;
};

std::vector<ImportedEvaluation> evaluations_of(const There& run, const MlflowSource& source, const Measured& on) {
  std::vector<ImportedEvaluation> evaluations;
  // As `assay export mlflow` wrote them down: exact.
  if (const json known = json::parse(tag(run, "assay.evaluations"), nullptr, false); known.is_array()) {
    for (const json& each : known) {
      ImportedEvaluation evaluation{integer(each, "step"), integer(each, "problems"), integer(each, "correct"),
                                    text_of(each, "quant"), text_of(each, "trained_quant"), text_of(each, "data_sha256")};
      if (evaluation.problems > 0 && evaluation.correct >= 0 && evaluation.correct <= evaluation.problems) evaluations.push_back(std::move(evaluation));
    }
    return evaluations;
  }
  if (source.accuracy.empty()) return evaluations;
  for (const auto& [step, metrics] : run.metrics) {
    const auto found = metrics.find(source.accuracy);
    if (found == metrics.end()) continue;
    const double count = found->second * static_cast<double>(on.problems);
    if (!(found->second >= 0 && found->second <= 1) || std::abs(count - std::round(count)) > 1e-3)
      throw UserError(kRefused, "mlflow: " + source.accuracy + " of run " + run.name + " is " + dump(found->second) + " at step " +
                                    std::to_string(step) + ", which is no share of " + std::to_string(on.problems) +
                                    " problems; give the right --problems or --test, or another --accuracy");
    evaluations.push_back({step, on.problems, std::llround(count), "unknown", "unknown", on.sha256});
  }
  return evaluations;
}

Measured measured_on(const MlflowSource& source) {
  if (!source.test.empty() && source.problems != 0) throw UserError(kUsage, "--test, --problems: the test file says how many problems there are; give one of the two");
  if (source.accuracy.empty() != (source.problems == 0 && source.test.empty()))
    throw UserError(kUsage, "--accuracy: it goes with --problems N or --test FILE: the metric that is the test accuracy, and what it was measured on");
  if (source.test.empty()) return {source.problems, ""};
  std::error_code none;
  if (!fs::is_regular_file(source.test, none)) throw UserError(kRefused, source.test + ": there is no such file; give the test file, one problem a line");
  const std::string text = support::read_file(source.test);
  const auto lines = std::count(text.begin(), text.end(), '\n') + (text.empty() || text.ends_with('\n') ? 0 : 1);
  if (lines == 0) throw UserError(kRefused, source.test + ": it is empty; give the test file, one problem a line");
  return {lines, support::sha256_hex(text)};
}

json find_experiment(Mlflow& server, const MlflowSource& source) {
  json found = server.get("experiments/get-by-name", "experiment_name=" + web::percent_encoded(source.experiment));
  if (!found.is_null()) return found.at("experiment");
  std::string names;
  for (const json& each : server.post("experiments/search", {{"max_results", 20}}).value("experiments", json::array()))
    names += (names.empty() ? "" : ", ") + text_of(each, "name");
  throw UserError(kRefused, "mlflow: " + source.address + " has no experiment '" + source.experiment + "'; it has " + (names.empty() ? "none" : names));
}

registry::SeriesRow series_row(const Paths& paths, const std::string& id, const MlflowSource& source) {
  if (fs::exists(paths.registry()))
    if (const auto known = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only).series(id)) return *known;
  registry::SeriesRow series = {id, source.experiment + ", imported from MLflow", "", ""};
  series.json = json{{"id", id}, {"title", series.title}, {"goal", ""}, {"notes", ""}, {"dates", json::array()}, {"next_steps", json::array()},
                     {"success_accuracy", 50.0}, {"cause_margin", 0.10}, {"causes", json::array()}, {"runs", json::array()}}.dump(2);
  return series;
}

ImportedRun imported(const There& there, const MlflowSource& source, const Measured& on, const std::string& series, MlflowImported& told) {
  std::set<std::string> taken;
  spec::Config config = config_of(there, taken);
  config.train.seed = told.seed;
  if (taken.count("train.steps") == 0) config.train.steps = std::max<std::int64_t>(1, there.metrics.empty() ? 1 : there.metrics.rbegin()->first);
  ImportedRun run;
  run.evaluations = evaluations_of(there, source, on);
  if (taken.empty()) told.missing.emplace_back("config");
  if (taken.count("quant.format") == 0) told.missing.emplace_back("quantization");
  if (run.evaluations.empty()) told.missing.emplace_back("accuracies");
  const std::string commit = tag(there, "mlflow.source.git.commit");
  if (commit.empty()) told.missing.emplace_back("commit");
  told.missing.insert(told.missing.end(), {"outcomes of single problems", "environment", "inputs"});
  run.run.series = series;
  run.run.run = told.run;
  run.run.seed = told.seed;
  run.run.config_json = spec::canonical_json(config);
  run.run.config_sha256 = spec::config_hash(config);
  run.run.derived_json = spec::derived_json({});
  json kept = {{"run_id", there.id}, {"name", there.name}, {"status", there.status}, {"parameters", there.parameters}, {"tags", there.tags}};
  run.run.run_json = dump({{"series", series}, {"run", told.run}, {"seed", told.seed}, {"title", there.name}, {"hypothesis", ""}, {"change", ""},
                           {"changed", json::object()}, {"baseline", ""}, {"baseline_series", ""}, {"published", {{"first", nullptr}, {"last", nullptr}}},
                           {"labels", json::object()}, {"missing", told.missing},
                           {"mlflow", {{"address", source.address}, {"experiment", source.experiment}, {"run_id", there.id}}}});
  run.run.code_json = json{{"user", commit.empty() ? json(nullptr) : json{{"root", ""}, {"commit", commit}, {"branch", nullptr}, {"bare", false}, {"dirty", false}, {"untracked", 0}}}, {"assay", nullptr}}.dump();
  run.run.environment_json = "{}";
  run.run.inputs_json = json{{"files", json::array()}}.dump();
  for (const auto& [step, metrics] : there.metrics)
    for (const auto& [key, value] : metrics) kept["metrics"][key].push_back({step, std::isfinite(value) ? json(value) : json(std::to_string(value))});
  const std::string text = dump(kept) + "\n";
  run.files.push_back({"mlflow.json", text});
  run.origin = {"mlflow", source.address + ", experiment " + source.experiment + ", run " + there.id, support::sha256_hex(text), ""};
  std::string content = there.id + '\n' + text;
  for (const ImportedEvaluation& each : run.evaluations)
    content += std::to_string(each.step) + ' ' + std::to_string(each.correct) + ' ' + std::to_string(each.problems) + ' ' + each.data_sha256 + '\n';
  run.origin.content = support::sha256_hex(content);
  run.metrics = there.metrics;
  run.metrics_time = there.started;
  run.state = state_of(there);
  run.started = there.started;
  run.ended = there.ended;
  return run;
}

}  // namespace

std::vector<MlflowImported> import_mlflow(const Paths& paths, const MlflowSource& source) {
  const Measured on = measured_on(source);
  const std::string series_id = source.series.empty() ? as_id(source.experiment) : source.series;
  if (as_id(series_id) != series_id)
    throw UserError(kUsage, "--series " + series_id + ": an id is of a-z 0-9 . _ - and begins with a letter or a digit; write " + as_id(series_id));
  Mlflow server(source.address);
  std::vector<There> runs;
  std::vector<MlflowImported> told;
  for (const json& run : all_runs(server, text_of(find_experiment(server, source), "experiment_id"))) {
    const std::string status = text_of(run.at("info"), "status");
    if (status == "FINISHED" || status == "FAILED" || status == "KILLED") runs.push_back(read_run(server, run));
    else told.push_back({text_of(run.at("info"), "run_name"), text_of(run.at("info"), "run_id"), "", 0, 0, false, "it has not ended there (" + status + ")", {}});
  }
  if (runs.empty()) throw UserError(kRefused, "mlflow: no run of experiment '" + source.experiment + "' has ended; log some, or name another experiment");
  std::sort(runs.begin(), runs.end(), [](const There& a, const There& b) { return std::tie(a.started, a.id) < std::tie(b.started, b.id); });

  // Ids that several runs of one seed would share are told apart, all of them, so that the order does not matter.
  const auto plain_id = [](const There& run) { return as_id(tag(run, "assay.run").empty() ? run.name : tag(run, "assay.run")); };
  std::map<std::pair<std::string, std::int64_t>, int> users;
  for (const There& run : runs) ++users[{plain_id(run), seed_of(run)}];
  std::vector<ImportedRun> all;
  const std::size_t first = told.size();
  for (const There& there : runs) {
    MlflowImported one{there.name, there.id, plain_id(there), seed_of(there), 0, false, "", {}};
    if (users.at({one.run, one.seed}) > 1) one.run += "-" + as_id(there.id).substr(0, 8);
    all.push_back(imported(there, source, on, series_id, one));
    told.push_back(std::move(one));
  }
  const ImportResult result = import_runs(paths, series_row(paths, series_id, source), {}, all);
  const std::set<std::int64_t> added(result.added.begin(), result.added.end());
  const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
  registry::Registry::RunFilter filter;
  filter.series = series_id;
  std::map<std::string, std::int64_t> numbers;   // content -> number
  for (const registry::RunRow& row : registry.runs(filter))
    numbers[json::parse(row.run_json).value("origin", json::object()).value("content", "")] = row.number;
  for (std::size_t i = 0; i < all.size(); ++i) {
    told[first + i].number = numbers.at(all[i].origin.content);
    told[first + i].present = added.count(told[first + i].number) == 0;
  }
  return told;
}

}  // namespace assay::runner
