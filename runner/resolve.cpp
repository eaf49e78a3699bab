#include "runner/resolve.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <variant>

#include "experiments/spec/canonical.h"
#include "runner/errors.h"
#include "runner/selection.h"
#include "support/files.h"
#include "support/suggest.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void refuse(const spec::Diagnostics& diagnostics) {
  std::string lines;
  for (const spec::Diagnostic& diagnostic : diagnostics) lines += (lines.empty() ? "" : "\n") + diagnostic.text();
  throw UserError(kRefused, lines);
}

spec::Series read(const fs::path& file, const std::vector<spec::Override>& overrides) {
  auto result = spec::read_series(file, overrides);
  if (const auto* diagnostics = std::get_if<spec::Diagnostics>(&result)) refuse(*diagnostics);
  return std::get<spec::Series>(std::move(result));
}

json published_json(const spec::Published& published) {
  return {{"first", published.first ? json(*published.first) : json(nullptr)},
          {"last", published.last ? json(*published.last) : json(nullptr)}};
}

registry::SeriesRow series_row(const spec::Series& series) {
  json document = {{"id", series.id},
                   {"title", series.title},
                   {"goal", series.goal},
                   {"notes", series.notes},
                   {"dates", series.dates},
                   {"next_steps", series.next_steps},
                   {"success_accuracy", series.success_accuracy},
                   {"cause_margin", series.cause_margin},
                   {"causes", json::array()},
                   {"runs", json::array()}};
  for (const spec::Cause& cause : series.causes)
    document["causes"].push_back(
        {{"name", cause.name}, {"run", cause.run}, {"against", cause.against}, {"note", cause.note}});
  for (const spec::RunSpec& run : series.runs)
    document["runs"].push_back({{"id", run.id},
                                {"title", run.title},
                                {"hypothesis", run.hypothesis},
                                {"change", run.change},
                                {"baseline", run.baseline},
                                {"baseline_series", run.baseline_series},
                                {"published", published_json(run.published)},
                                {"verdict", run.verdict},
                                {"conclusion", run.conclusion}});
  return {series.id, series.title, series.goal, document.dump(2, ' ', false, json::error_handler_t::replace)};
}

ResolvedRun resolved_run(const spec::Series& series, const spec::RunSpec& spec_run, std::optional<std::int64_t> seed) {
  ResolvedRun resolved;
  resolved.config = spec_run.config;
  if (seed) resolved.config.train.seed = *seed;
  resolved.derived = spec_run.derived;
  registry::NewRun& run = resolved.run;
  run.series = series.id;
  run.run = spec_run.id;
  run.seed = resolved.config.train.seed;
  run.config_json = spec::canonical_json(resolved.config);
  run.config_sha256 = support::sha256_hex(run.config_json);   // config_hash(), of what is written already
  run.derived_json = spec::derived_json(resolved.derived);
  run.run_json = json{{"series", series.id},
                      {"run", spec_run.id},
                      {"seed", run.seed},
                      {"title", spec_run.title},
                      {"hypothesis", spec_run.hypothesis},
                      {"change", spec_run.change},
                      {"changed", spec_run.changed},
                      {"baseline", spec_run.baseline},
                      {"baseline_series", spec_run.baseline_series},
                      {"published", published_json(spec_run.published)}}
                     .dump(-1, ' ', false, json::error_handler_t::replace);
  return resolved;
}

// What of a series is meant: the words and --only, as run ids.
void keep(spec::Series& series, const std::vector<std::string>& words, const std::string& where) {
  if (words.empty()) return;
  std::set<std::string> kept;
  for (const std::string& word : words) {
    bool exact = false, found = false;
    for (const spec::RunSpec& run : series.runs) exact |= run.id == word;
    for (const spec::RunSpec& run : series.runs)
      if (exact ? run.id == word : names_run(word, run.id)) {
        kept.insert(run.id);
        found = true;
      }
    if (!found) {
      std::vector<std::string> known;
      std::string list;
      for (const spec::RunSpec& run : series.runs) {
        known.push_back(run.id);
        list += (list.empty() ? "" : ", ") + run.id;
      }
      throw UserError(kRefused, where + " " + word + ": series " + series.id + " has no such run" +
                                    support::did_you_mean(word, known) + "; it has " + list);
    }
  }
  std::erase_if(series.runs, [&](const spec::RunSpec& run) { return kept.count(run.id) == 0; });
}

ResolvedSeries from_spec(const spec::Series& series, registry::SeriesRow row, const std::vector<std::int64_t>& seeds) {
  ResolvedSeries resolved;
  resolved.series = std::move(row);
  resolved.files.push_back({"series.toml", series.source});
  std::set<std::string> names;
  for (const spec::SourceFile& base : series.bases) {
    std::string name = "base-" + base.path.filename().string();
    for (int n = 2; !names.insert(name).second; ++n)
      name = "base-" + std::to_string(n) + "-" + base.path.filename().string();
    resolved.files.push_back({name, base.text});
  }
  resolved.folder = fs::absolute(series.file).parent_path();
  if (seeds.empty())
    for (const spec::RunSpec& run : series.runs) resolved.runs.push_back(resolved_run(series, run, std::nullopt));
  for (const std::int64_t seed : seeds)
    for (const spec::RunSpec& run : series.runs) resolved.runs.push_back(resolved_run(series, run, seed));
  return resolved;
}

// A former run again, from what was frozen then.
ResolvedSeries from_run(const registry::Registry& registry, const registry::RunRow& row,
                        const std::vector<std::int64_t>& seeds) {
  ResolvedSeries resolved;
  resolved.series = registry.series(row.series).value();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(row.folder, error))
    if (entry.path().extension() == ".toml")
      resolved.files.push_back({entry.path().filename().string(), support::read_file(entry.path())});
  std::sort(resolved.files.begin(), resolved.files.end(),
            [](const FrozenFile& a, const FrozenFile& b) { return a.name > b.name; });
  json run = json::parse(row.run_json);
  resolved.folder = run.value("work_folder", "");
  for (const char* own : {"number", "batch", "created", "labels", "trainer", "work_folder", "programs", "edited"}) run.erase(own);
  for (const std::int64_t seed : seeds.empty() ? std::vector<std::int64_t>{row.seed} : seeds) {
    ResolvedRun again;
    json frozen = json::parse(row.config_json);
    again.config = spec::config_from_json(frozen);
    again.config.train.seed = seed;
    again.derived = spec::derived_from_json(json::parse(row.derived_json));
    again.run.series = row.series;
    again.run.run = row.run;
    again.run.seed = seed;
    // As it was frozen, not as this assay would freeze it now: an older one, which `assay verify` runs it by, knows no keys
    // that have come since.
    frozen["train"]["seed"] = seed;
    again.run.config_json = seed == row.seed ? row.config_json : frozen.dump();
    again.run.config_sha256 = support::sha256_hex(again.run.config_json);
    again.run.derived_json = row.derived_json;
    run["seed"] = seed;
    again.run.run_json = run.dump();
    resolved.runs.push_back(std::move(again));
  }
  return resolved;
}

// The series in which a run of that id stands; nothing when there is none, or none that can be read.
std::optional<fs::path> series_with_run(const std::string& id) {
  for (const std::string& name : spec::list_series()) {
    const auto file = spec::resolve_series(name);
    if (!std::holds_alternative<fs::path>(file)) continue;
    const auto series = spec::read_series(std::get<fs::path>(file));
    const auto* read_well = std::get_if<spec::Series>(&series);
    if (read_well == nullptr) continue;
    for (const spec::RunSpec& run : read_well->runs)
      if (run.id == id) return std::get<fs::path>(file);
  }
  return std::nullopt;
}

}  // namespace

std::vector<spec::Override> overrides_of(const std::vector<std::string>& set) {
  std::vector<spec::Override> overrides;
  for (const std::string& entry : set) {
    const auto equals = entry.find('=');
    if (equals == std::string::npos || equals == 0)
      throw UserError(kUsage, "--set " + entry + ": it is not KEY=VALUE; write for example --set optimizer.lr=1e-4");
    overrides.push_back({entry.substr(0, equals), entry.substr(equals + 1)});
  }
  return overrides;
}

std::vector<ResolvedSeries> resolve(const ResolveOptions& options, const registry::Registry* registry) {
  const std::vector<spec::Override> overrides = overrides_of(options.set);
  std::vector<ResolvedSeries> all;
  for (const std::string& word : options.words) {
    if (const auto number = as_number(word)) {
      if (registry == nullptr)
        throw UserError(kNoSuchRun, "run " + word + ": nothing has been run yet; type `assay run SERIES`");
      if (!options.set.empty() || !options.only.empty())
        throw UserError(kUsage, "run " + word + ": a former run is repeated as it was; give its series to use " +
                                    (options.set.empty() ? "--only" : "--set"));
      all.push_back(from_run(*registry, select_one(*registry, word), options.seeds));
      continue;
    }
    std::vector<std::string> within;
    auto file = spec::resolve_series(word);
    if (!std::holds_alternative<fs::path>(file)) {
      const spec::Diagnostic first = std::get<spec::Diagnostic>(file);
      const auto slash = word.rfind('/');
      if (slash != std::string::npos && word.find(".toml") == std::string::npos) {
        file = spec::resolve_series(word.substr(0, slash));
        if (const auto* diagnostic = std::get_if<spec::Diagnostic>(&file)) refuse({*diagnostic});
        within = {word.substr(slash + 1)};
      } else if (const auto found = series_with_run(word)) {
        file = *found;
        within = {word};
      } else {
        refuse({first});
      }
    }
    spec::Series series = read(std::get<fs::path>(file), overrides);
    registry::SeriesRow row = series_row(series);  // the whole of it, whichever of its runs are meant now
    keep(series, within, "run");
    keep(series, options.only, "--only");
    all.push_back(from_spec(series, std::move(row), options.seeds));
  }
  return all;
}

}  // namespace assay::runner
