#include "runner/importing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "experiments/spec/canonical.h"
#include "experiments/spec/records_file.h"
#include "runner/errors.h"
#include "runner/ingest.h"
#include "runner/protocol.h"
#include "runner/run_folder.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;
using registry::StateKind;

std::string step_file(std::int64_t step) {
  char name[48];
  std::snprintf(name, sizeof name, "step-%06lld.json", static_cast<long long>(step));
  return name;
}

// A double as metrics.jsonl writes it: JSON has no NaN and no infinity.
json metric(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// What a trainer would have left.
void write_results(const fs::path& folder, const ImportedRun& run) {
  std::string lines;
  for (const auto& [step, values] : run.metrics) {
    json object = json::object();
    for (const auto& [key, value] : values) object[key] = metric(value);
    lines += dump({{"step", step}, {"time", run.metrics_time}, {"metrics", std::move(object)}}) + "\n";
  }
  if (!lines.empty()) support::write_file_atomically(folder / "metrics.jsonl", lines);
  lines.clear();
  for (const registry::Event& event : run.events)
    lines += dump({{"time", event.time},
                   {"step", event.step},
                   {"kind", event.kind},
                   {"message", event.message},
                   {"data", json::parse(event.data_json.empty() ? "{}" : event.data_json)}}) + "\n";
  if (!lines.empty()) support::write_file_atomically(folder / "events.jsonl", lines);
  if (!run.evaluations.empty()) fs::create_directory(folder / "eval");
  for (const ImportedEvaluation& point : run.evaluations)
    support::write_file_atomically(
        folder / "eval" / step_file(point.step),
        json{{"step", point.step},
             {"problems", point.problems},
             {"correct", point.correct},
             {"accuracy", static_cast<double>(point.correct) / static_cast<double>(point.problems)},
             {"quant", point.quant},
             {"trained_quant", point.trained_quant},
             {"data_sha256", point.data_sha256}}
                .dump(2) + "\n");
}

// "series/run/seed" -> content -> number, of the imported runs there are.
std::map<std::string, std::int64_t> known_contents(const Registry& registry, const std::string& series) {
  std::map<std::string, std::int64_t> known;
  Registry::RunFilter filter;
  filter.series = series;
  for (const registry::RunRow& row : registry.runs(filter)) {
    const json origin = json::parse(row.run_json).value("origin", json(nullptr));
    if (origin.is_object() && origin.contains("content"))
      known[row.run + "\n" + std::to_string(row.seed) + "\n" + origin.at("content").get<std::string>()] = row.number;
  }
  return known;
}

json series_records(const spec::RecordsFile& records) {
  json commits = json::array(), claims = json::array();
  for (const spec::RecordedCommit& commit : records.commits) commits.push_back({{"id", commit.id}, {"what", commit.what}});
  for (const spec::RecordedClaim& claim : records.claims) {
    json entry = {{"what", claim.what}, {"note", claim.note},         {"said", claim.said},
                  {"unit", claim.unit}, {"decimals", claim.decimals}, {"how", claim.how}};
    if (claim.step >= 0)
      entry.update({{"of_run", claim.of_run}, {"to_run", claim.to_run}, {"step", claim.step}, {"metric", claim.of_metric}});
    else
      entry.update({{"of", claim.of}, {"to", claim.to}});
    claims.push_back(std::move(entry));
  }
  return {{"source", records.source},
          {"test", {{"name", records.test_name}, {"problems", records.problems}, {"metric", records.metric},
                    {"quant_note", records.quant_note}}},
          {"commits", commits},
          {"claims", claims},
          {"side_problems", records.side_problems},
          {"open_questions", records.open_questions},
          {"background", records.background},
          {"files", records.files}};
}

json run_records(const spec::RecordedRun& run) {
  json ranges = json::array();
  for (const spec::RecordedRange& range : run.ranges)
    ranges.push_back({{"metric", range.metric}, {"from", range.from}, {"to", range.to}, {"low", range.low}, {"high", range.high}});
  json scores = json::object(), accuracies = json::object();   // as they were printed, in percent
  for (const auto& [step, percent] : run.score) scores[std::to_string(step)] = percent;
  for (const auto& [step, percent] : run.accuracy) accuracies[std::to_string(step)] = percent;
  return {{"outcome", run.outcome},
          {"script", run.script},
          {"log", run.log},
          {"date", run.date},
          {"commits", run.commits},
          {"files", run.files},
          {"ranges", ranges},
          {"accuracy", accuracies},
          {"score", scores},
          {"quantization_error", run.quantization_error ? json(*run.quantization_error) : json(nullptr)}};
}

ImportedRun imported(const spec::RecordsFile& records, const spec::RecordedRun& record, const ResolvedRun& resolved,
                     const std::string& file_sha256) {
  ImportedRun result;
  result.run = resolved.run;
  if (record.seed) {
    spec::Config config = resolved.config;
    config.train.seed = *record.seed;
    result.run.seed = *record.seed;
    result.run.config_json = spec::canonical_json(config);
    result.run.config_sha256 = spec::config_hash(config);
  }
  json document = json::parse(result.run.run_json);
  document["seed"] = result.run.seed;
  document["labels"] = json::object();
  document["records"] = run_records(record);
  document["records"]["source"] = records.source;
  document["records"]["metric"] = records.metric;
  result.run.run_json = dump(document);
  result.run.code_json = json{{"user", record.commits.empty() ? json(nullptr)
                                                              : json{{"root", ""},
                                                                     {"commit", record.commits.back()},
                                                                     {"branch", nullptr},
                                                                     {"bare", false},
                                                                     {"dirty", false},
                                                                     {"untracked", 0}}},
                              {"assay", nullptr}}
                             .dump();
  result.run.environment_json = "{}";
  result.run.inputs_json = json{{"files", json::array()}}.dump();

  const std::string trained = spec::quant_label(resolved.config.quant);
  for (const auto& [step, percent] : record.accuracy) {
    const std::int64_t correct = spec::count_of(percent, records.problems).value();
    result.evaluations.push_back({step, records.problems, correct, records.quant, trained, ""});
    result.metrics[step][records.metric] = percent / 100;
  }
  for (const auto& [step, percent] : record.score) result.metrics[step]["critic/score/mean"] = percent / 100;
  result.state.kind = registry::parse_state(record.state).value();
  result.state.detail = record.detail;
  result.ended = unix_of_date(record.date);
  result.started = result.ended;
  result.files.push_back({"records.toml", records.text});
  result.origin = {"records", records.file.filename().string(), file_sha256,
                   support::sha256_hex(result.run.run_json + '\n' + result.run.config_json + '\n' + record.state + '\n' +
                                       record.detail + '\n' + std::to_string(records.problems) + '\n' + records.quant)};
  return result;
}

[[noreturn]] void refuse(const spec::Diagnostics& diagnostics) {
  std::string lines;
  for (const spec::Diagnostic& diagnostic : diagnostics) lines += (lines.empty() ? "" : "\n") + diagnostic.text();
  throw UserError(kRefused, lines);
}

}  // namespace

double unix_of_date(const std::string& date) {
  int year = 0, month = 0, day = 0;
  if (std::sscanf(date.c_str(), "%4d-%2d-%2d", &year, &month, &day) != 3) return 0;
  const std::chrono::year_month_day civil{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                          std::chrono::day(static_cast<unsigned>(day))};
  if (!civil.ok()) return 0;
  return static_cast<double>(std::chrono::sys_days(civil).time_since_epoch().count()) * 86400;
}

ImportResult import_runs(const Paths& paths, const registry::SeriesRow& series,
                         const std::vector<FrozenFile>& series_files, const std::vector<ImportedRun>& runs) {
  for (const ImportedRun& run : runs)
    if (!registry::is_final(run.state.kind))
      throw std::invalid_argument("run " + run.run.run + " is to be imported as " + registry::name(run.state.kind) +
                                  ", which is not final");
  make_folder(paths.data);
  Registry registry = Registry::open(paths.registry(), Registry::Access::read_write);
  const double now = unix_now();
  const std::string created = iso_time(now);
  ImportResult result;
  std::vector<fs::path> made;
  try {
    registry.batch([&] {
      const auto known = known_contents(registry, series.id);
      std::vector<const ImportedRun*> wanted;
      for (const ImportedRun& run : runs) {
        const auto found = known.find(run.run.run + "\n" + std::to_string(run.run.seed) + "\n" + run.origin.content);
        if (found != known.end()) result.present.push_back(found->second);
        else wanted.push_back(&run);
      }
      fs::create_directories(paths.series() / series.id);
      support::write_file_atomically(paths.series() / series.id / "series.json", series.json + "\n");
      for (const FrozenFile& file : series_files)
        support::write_file_atomically(paths.series() / series.id / file.name, file.bytes);
      registry.put_series(series);
      std::vector<registry::NewRun> rows;
      for (const ImportedRun* run : wanted) {
        registry::NewRun row = run->run;
        json document = json::parse(row.run_json);
        document["origin"] = {{"kind", run->origin.kind},
                              {"source", run->origin.source},
                              {"sha256", run->origin.sha256},
                              {"content", run->origin.content}};
        document["created"] = created;
        document["batch"] = row.batch = "import-" + created;
        row.run_json = dump(document);
        rows.push_back(std::move(row));
      }
      result.added = registry.add_runs(rows, [&](std::int64_t number, const registry::NewRun& row) {
        const ImportedRun& run = *wanted.at(made.size());
        std::vector<FrozenFile> files = series_files;
        files.insert(files.end(), run.files.begin(), run.files.end());
        made.push_back(create_run_folder(paths.runs(), number, row, files));
        write_results(made.back(), run);
        return made.back().string();
      });
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        const ImportedRun& run = *wanted[i];
        const auto config = json::parse(run.run.config_json);
        Ingest(registry, result.added[i], made[i], config.at("train").at("steps").get<std::int64_t>()).finish();
        StateKind from = StateKind::queued;
        if (run.started > 0) {   // it ran once; what has no time has no attempt
          registry.transition(result.added[i], from, {StateKind::starting, {}, {}, ""}, run.started);
          from = StateKind::starting;
        }
        if (!registry.transition(result.added[i], from, run.state, run.ended > 0 ? run.ended : now))
          throw std::logic_error("an imported run was taken by somebody else");
      }
    });
  } catch (...) {
    std::error_code ignored;
    for (const fs::path& folder : made) fs::remove_all(folder, ignored);
    throw;
  }
  return result;
}

ImportResult import_records(const Paths& paths, const std::string& file) {
  auto read = spec::read_records(file);
  if (const auto* diagnostics = std::get_if<spec::Diagnostics>(&read)) refuse(*diagnostics);
  const spec::RecordsFile records = std::get<spec::RecordsFile>(std::move(read));

  ResolveOptions options;
  const fs::path beside = fs::absolute(fs::path(file)).parent_path() / records.series;
  options.words = {records.series.ends_with(".toml") ? beside.string() : records.series};
  ResolvedSeries series = resolve(options, nullptr).front();

  std::string lines;
  const auto resolved_of = [&](const std::string& id) -> const ResolvedRun* {
    for (const ResolvedRun& run : series.runs)
      if (run.run.run == id) return &run;
    return nullptr;
  };
  const std::string sha256 = support::sha256_hex(records.text);
  std::vector<ImportedRun> runs;
  std::set<std::string> recorded;
  for (const spec::RecordedRun& record : records.runs) {
    recorded.insert(record.run);
    if (const ResolvedRun* resolved = resolved_of(record.run)) runs.push_back(imported(records, record, *resolved, sha256));
    else lines += (lines.empty() ? "" : "\n") + file + ": series " + series.series.id + " has no run '" + record.run +
                  "'; correct the record, or add the run to the series";
  }
  for (const spec::RecordedClaim& claim : records.claims)
    for (const std::string& id : {claim.of_run, claim.to_run})
      if (!id.empty() && recorded.count(id) == 0)
        lines += (lines.empty() ? "" : "\n") + file + ": the claim '" + claim.what + "' speaks of run '" + id +
                 "', of which there is no record; correct its id";
  if (!lines.empty()) throw UserError(kRefused, lines);

  json document = json::parse(series.series.json);
  document["records"] = series_records(records);
  series.series.json = document.dump(2, ' ', false, json::error_handler_t::replace);
  return import_runs(paths, series.series, series.files, runs);
}

}  // namespace assay::runner
