#include "runner/series_log.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "experiments/spec/canonical.h"
#include "runner/comparison.h"
#include "runner/errors.h"
#include "runner/process.h"
#include "support/suggest.h"

namespace assay::runner {
namespace {

using nlohmann::json;
using registry::Registry;
using registry::RunRow;

// json::value() throws where the key is there and null.
template <typename T>
T get(const json& object, const char* key, T otherwise) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || found->is_null()) return otherwise;
  return found->get<T>();
}

std::string text(const json& object, const char* key) { return get<std::string>(object, key, ""); }

std::vector<std::string> texts(const json& object, const char* key) {
  return get<std::vector<std::string>>(object, key, {});
}

void flatten(const json& config, report::LoggedRun& run) {
  for (const auto& [section, keys] : config.items()) {
    if (section == "schedule" || !keys.is_object()) continue;
    for (const auto& [key, value] : keys.items())
      if (section + "." + key != "train.seed") run.config[section + "." + key] = value.dump(-1, ' ', false, json::error_handler_t::replace);
  }
}

// "model.layers.17.self_attn.q_proj…" -> 17
std::optional<std::size_t> layer_of(const std::string& name) {
  static constexpr std::string_view kBefore = "layers.";
  const std::size_t at = name.find(kBefore);
  if (at == std::string::npos) return std::nullopt;
  std::size_t layer = 0, digits = 0;
  for (std::size_t i = at + kBefore.size(); i < name.size() && name[i] >= '0' && name[i] <= '9' && digits < 6; ++i, ++digits)
    layer = layer * 10 + static_cast<std::size_t>(name[i] - '0');
  if (digits == 0) return std::nullopt;
  return layer;
}

void take_coverage(const json& doctor, std::int64_t layers, report::LoggedRun& run) {
  const auto found = doctor.find("gradients");
  if (found == doctor.end() || layers <= 0 || layers > 100000) return;
  const auto tensors = get<std::int64_t>(*found, "tensors", 0);
  if (tensors <= 0 || tensors % layers != 0) return;
  run.coverage.assign(static_cast<std::size_t>(layers), {tensors / layers, tensors / layers});
  const auto without = found->find("without");
  if (without == found->end() || !without->is_array()) return;
  for (const json& entry : *without) {
    // Before the doctor gave a reason with each, an entry was the name itself.
    const std::string name = entry.is_string() ? entry.get<std::string>() : text(entry, "tensor");
    if (const auto layer = layer_of(name); layer && *layer < run.coverage.size()) --run.coverage[*layer].with_gradient;
  }
}

// The relative error is the root of noise over signal: 10^(-dB/20); over several modules their noise shares are averaged.
void take_errors(const json& report, std::int64_t layers, report::LoggedRun& run) {
  const auto modules = report.find("modules");
  if (modules == report.end() || !modules->is_array()) return;
  struct Sum {
    double noise = 0;
    std::int64_t count = 0;
  };
  std::map<std::size_t, Sum> by_layer;
  Sum all;
  for (const json& module : *modules) {
    if (!get<bool>(module, "weight", false)) continue;
    const auto db = module.find("weight_sqnr_db");
    const auto layer = layer_of(text(module, "name"));
    if (db == module.end() || !db->is_number() || !layer) continue;
    // A layer that the wrapper has quantized already is rounded again below it, without a further error: it counts once.
    if (text(module, "name").ends_with(".base_layer") && get<double>(module, "weight_sqnr_db", 0) > 100) continue;
    const double noise = std::pow(10.0, -db->get<double>() / 10);
    by_layer[*layer].noise += noise;
    ++by_layer[*layer].count;
    all.noise += noise;
    ++all.count;
  }
  if (all.count == 0) return;
  run.mean_weight_error = 100 * std::sqrt(all.noise / static_cast<double>(all.count));
  if (layers > 0 && by_layer.size() == static_cast<std::size_t>(layers))
    for (const auto& [layer, sum] : by_layer) run.weight_error.push_back(100 * std::sqrt(sum.noise / static_cast<double>(sum.count)));
}

std::string build_line(const json& code) {
  const auto assay = code.find("assay");
  if (assay == code.end() || !assay->is_object()) return "";
  std::string line;
  for (const char* key : {"commit", "build_type", "compiler"}) {
    const auto found = assay->find(key);
    if (found == assay->end() || !found->is_string()) continue;
    line += (line.empty() ? "" : ", ") + (std::string(key) == "commit" ? "commit " + found->get<std::string>() : found->get<std::string>());
  }
  return line;
}

std::string machine_line(const json& environment) {
  if (!environment.is_object() || environment.empty()) return "";
  std::string line = text(environment, "os");
  if (const auto processor = environment.find("processor"); processor != environment.end())
    line += (line.empty() ? "" : ", ") + text(*processor, "model") + ", " + std::to_string(get<std::int64_t>(*processor, "usable", 0)) + " processors";
  if (const auto gpus = environment.find("gpus"); gpus != environment.end() && gpus->is_array())
    for (const json& gpu : *gpus) line += ", " + text(gpu, "model");
  if (const auto libraries = environment.find("libraries"); libraries != environment.end())
    if (const std::string torch = text(*libraries, "libtorch"); !torch.empty()) line += ", LibTorch " + torch;
  return line;
}

report::RecordedFigures recorded(const json& records) {
  report::RecordedFigures figures;
  if (!records.is_object()) return figures;
  figures.outcome = text(records, "outcome");
  figures.script = text(records, "script");
  figures.log = text(records, "log");
  figures.date = text(records, "date");
  figures.source = text(records, "source");
  figures.commits = texts(records, "commits");
  for (const auto& [name, into] : {std::pair{"accuracy", &figures.accuracy}, {"score", &figures.score}})
    if (const auto found = records.find(name); found != records.end() && found->is_object())
      for (const auto& [step, percent] : found->items()) (*into)[std::stoll(step)] = percent.get<double>();
  if (const auto ranges = records.find("ranges"); ranges != records.end() && ranges->is_array())
    for (const json& range : *ranges) {
      const auto plain = [&](const char* key) { return json(get<double>(range, key, 0)).dump(); };
      const auto whole = [](std::string words) { return words.ends_with(".0") ? words.substr(0, words.size() - 2) : words; };
      figures.ranges.push_back(text(range, "metric") + " " + whole(plain("low")) + " to " + whole(plain("high")) + " % in steps " +
                               std::to_string(get<std::int64_t>(range, "from", 0)) + " to " + std::to_string(get<std::int64_t>(range, "to", 0)));
    }
  if (const auto error = records.find("quantization_error"); error != records.end() && error->is_number())
    figures.quantization_error = error->get<double>();
  return figures;
}

report::LoggedRun logged(const Registry& registry, const RunRow& row, const json& series) {
  report::LoggedRun run;
  const CompareChoice choice;
  run.result = run_result(registry, row, choice);
  const json config = json::parse(row.config_json), document = json::parse(row.run_json);
  const auto facts = registry.facts(row.number);
  flatten(config, run);
  run.config_sha256 = row.config_sha256;
  run.quant_label = spec::quant_label(spec::config_from_json(config).quant);
  run.hypothesis = text(document, "hypothesis");
  run.change = text(document, "change");
  run.changed = get<std::map<std::string, std::string>>(document, "changed", {});
  if (const auto runs = series.find("runs"); runs != series.end())
    for (const json& entry : *runs)
      if (text(entry, "id") == row.run) {
        run.verdict = text(entry, "verdict");
        run.conclusion = text(entry, "conclusion");
      }
  for (const registry::Evaluation& evaluation : registry.evaluations(row.number, false)) {
    report::EvalPoint point;
    point.step = evaluation.step;
    point.problems = evaluation.problems;
    point.correct = evaluation.correct;
    point.quant = evaluation.quant;
    point.trained_quant = evaluation.trained_quant;
    point.data_sha256 = evaluation.data_sha256;
    run.evaluations.push_back(std::move(point));
  }
  for (const registry::MetricPoint& point : registry.metrics(row.number, "critic/score/mean"))
    if (std::isfinite(point.value)) run.scores.emplace_back(point.step, point.value);
  if (facts) {
    const json code = json::parse(facts->code_json), environment = json::parse(facts->environment_json);
    if (const auto user = code.find("user"); user != code.end() && user->is_object()) {
      run.code_commit = text(*user, "commit");
      run.code_dirty = get<bool>(*user, "dirty", false);
    }
    run.assay_commit = build_line(code);
    run.environment = machine_line(environment);
  }
  run.folder = row.folder;
  if (row.started > 0) run.started = iso_time(row.started);
  const json labels = document.value("labels", json::object());
  run.repeats = text(labels, "verifies");
  const auto layers = get<std::int64_t>(json::parse(row.derived_json), "layers", -1);
  if (const auto doctor = registry.document(row.number, "doctor")) take_coverage(json::parse(*doctor), layers, run);
  if (const auto report = registry.document(row.number, "quant-report")) take_errors(json::parse(*report), layers, run);
  if (const auto origin = document.find("origin"); origin != document.end() && origin->is_object())
    run.origin = text(*origin, "source") + " (" + text(*origin, "kind") + ", SHA-256 " + text(*origin, "sha256").substr(0, 12) + ")";
  if (const auto records = document.find("records"); records != document.end()) run.recorded = recorded(*records);
  return run;
}

void take_series(const json& series, report::SeriesLog& log) {
  log.notes = text(series, "notes");
  log.dates = texts(series, "dates");
  log.next_steps = texts(series, "next_steps");
  log.success_accuracy = get<double>(series, "success_accuracy", log.success_accuracy);
  log.cause_margin = get<double>(series, "cause_margin", log.cause_margin);
  if (const auto causes = series.find("causes"); causes != series.end())
    for (const json& cause : *causes)
      log.causes.push_back({text(cause, "name"), text(cause, "run"), text(cause, "against"), text(cause, "note"), ""});
  const auto found = series.find("records");
  if (found == series.end() || !found->is_object()) return;
  const json& records = *found;
  log.records_source = text(records, "source");
  if (const auto test = records.find("test"); test != records.end()) {
    log.test_name = text(*test, "name");
    log.quant_note = text(*test, "quant_note");
  }
  if (const auto commits = records.find("commits"); commits != records.end())
    for (const json& commit : *commits) log.commits.emplace_back(text(commit, "id"), text(commit, "what"));
  log.side_problems = texts(records, "side_problems");
  log.open_questions = texts(records, "open_questions");
  log.background = texts(records, "background");
  log.files = texts(records, "files");
  if (const auto claims = records.find("claims"); claims != records.end())
    for (const json& entry : *claims) {
      report::Claim claim;
      claim.what = text(entry, "what");
      claim.note = text(entry, "note");
      claim.unit = text(entry, "unit");
      claim.how = text(entry, "how");
      claim.metric = get<std::string>(entry, "metric", "accuracy");
      claim.said = get<double>(entry, "said", 0);
      claim.of = get<double>(entry, "of", 0);
      claim.to = get<double>(entry, "to", 0);
      claim.decimals = get<std::int64_t>(entry, "decimals", 0);
      claim.step = get<std::int64_t>(entry, "step", -1);
      claim.of_run = text(entry, "of_run");
      claim.to_run = text(entry, "to_run");
      log.claims.push_back(std::move(claim));
    }
}

// What people said: the newest version of each record. What is said of one run goes before what is said of its id.
void take_record(const registry::Record& record, report::LoggedRun& run) {
  if (record.kind == "hypothesis") run.hypothesis = record.text;
  else if (record.kind == "verdict") run.verdict = record.text;
  else if (record.kind == "conclusion") run.conclusion = record.text;
  else if (record.kind == "note") run.notes.push_back(record.text);
  else if (record.kind == "verify") run.notes.push_back("verified: " + record.text);
}

void take_cause(const registry::Record& record, report::SeriesLog& log) {
  const json data = json::parse(record.data_json);
  std::string decided = text(data, "status");
  if (!record.text.empty()) decided += (decided.empty() ? "" : ", ") + record.text;
  for (report::DeclaredCause& cause : log.causes)
    if (cause.name == record.subject) {
      if (record.source != "series file") cause.verdict = decided;
      return;
    }
  if (!text(data, "run").empty() && !text(data, "against").empty())
    log.causes.push_back({record.subject, text(data, "run"), text(data, "against"), "", decided});
}

void take_records(const Registry& registry, report::SeriesLog& log) {
  const std::vector<registry::Record> records = registry.records_of_series(log.id);
  for (const bool own : {false, true})
    for (const registry::Record& record : records) {
      if (!record.newest || record.withdrawn || (record.run != 0) != own) continue;
      if (record.run == 0 && record.run_id.empty()) {
        if (record.kind == "cause") take_cause(record, log);
        else if (record.kind == "note" || record.kind == "conclusion" || record.kind == "verdict") log.remarks.push_back(record.text);
        continue;
      }
      for (auto* runs : {&log.runs, &log.earlier})
        for (report::LoggedRun& run : *runs)
          if (record.run != 0 ? record.run == run.result.number : record.run_id == run.result.id) take_record(record, run);
    }
  std::vector<report::RunResult*> results;
  for (auto* runs : {&log.runs, &log.earlier})
    for (report::LoggedRun& run : *runs) results.push_back(&run.result);
  take_exclusions(registry, log.id, results);
}

}  // namespace

report::LoggedRun logged_run(const Registry& registry, const RunRow& row) {
  const auto series = registry.series(row.series);
  return logged(registry, row, series ? json::parse(series->json) : json::object());
}

report::SeriesLog series_log(const Registry& registry, const std::string& id) {
  const auto row = registry.series(id);
  if (!row) {
    std::vector<std::string> known;
    std::string list;
    for (const registry::SeriesRow& series : registry.all_series()) {
      known.push_back(series.id);
      list += (list.empty() ? "" : ", ") + series.id;
    }
    throw UserError(kNoSuchRun, "series '" + id + "': nothing of it has been run or imported" + support::did_you_mean(id, known) +
                                    (list.empty() ? "; type `assay run SERIES`" : "; there are " + list));
  }
  report::SeriesLog log;
  log.id = row->id;
  log.title = row->title;
  log.goal = row->goal;
  const json series = json::parse(row->json);
  take_series(series, log);

  Registry::RunFilter filter;
  filter.series = id;
  std::map<std::pair<std::string, std::int64_t>, std::int64_t> latest;
  const std::vector<RunRow> rows = registry.runs(filter);
  // A run of `assay verify` says something about the one it repeats and stands in its place only where there is no other.
  const auto verifies = [](const RunRow& run) { return run.run_json.find("\"verifies\":") != std::string::npos; };
  for (const bool repeats : {false, true})
    for (const RunRow& run : rows)
      if (verifies(run) == repeats) {
        const auto [place, fresh] = latest.emplace(std::pair(run.run, run.seed), run.number);
        if (!fresh && !repeats) place->second = std::max(place->second, run.number);
      }
  std::map<std::string, std::size_t> order;   // the series' own; what it does not know comes after, by number
  if (const auto runs = series.find("runs"); runs != series.end())
    for (const json& entry : *runs) order.emplace(text(entry, "id"), order.size());
  for (const RunRow& run : rows)
    (latest.at({run.run, run.seed}) == run.number ? log.runs : log.earlier).push_back(logged(registry, run, series));
  take_records(registry, log);
  for (const auto& [name, place] : order) {
    const bool there = std::any_of(rows.begin(), rows.end(), [&, name = name](const RunRow& run) { return run.run == name; });
    if (!there) log.not_run.push_back(name);
  }
  const auto place = [&](const report::LoggedRun& run) {
    const auto found = order.find(run.result.id);
    return std::tuple(found == order.end() ? order.size() : found->second, found == order.end() ? run.result.id : "", run.result.seed, run.result.number);
  };
  std::stable_sort(log.runs.begin(), log.runs.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
  return log;
}

}  // namespace assay::runner
