#include "runner/care.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "registry/journal.h"
#include "runner/errors.h"
#include "runner/groups.h"
#include "runner/ingest.h"
#include "runner/process.h"
#include "runner/records.h"
#include "runner/run_folder.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;
using registry::RunRow;
using registry::StateKind;

std::vector<fs::path> folders_in(const fs::path& parent) {
  std::vector<fs::path> folders;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(parent, none))
    if (entry.is_directory()) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  return folders;
}

std::vector<fs::path> run_folders(const Paths& paths) {
  std::vector<fs::path> folders;
  for (const fs::path& series : folders_in(paths.runs()))
    for (const fs::path& run : folders_in(series))
      if (fs::exists(run / "run.json")) folders.push_back(run);
  return folders;
}

std::string without_newline(std::string text) {
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string frozen(const fs::path& file) { return fs::exists(file) ? support::read_file(file) : std::string("{}"); }

std::int64_t planned_steps(const std::string& config_json) {
  const json config = json::parse(config_json, nullptr, false);
  if (!config.is_object()) return -1;
  return config.value("train", json::object()).value("steps", std::int64_t{-1});
}

struct FoundRun {
  RunRow row;
  registry::RunFacts facts;
  std::vector<registry::Attempt> attempts;
  int bad_states = 0;
};

double unix_of_iso(const std::string& text) {
  std::tm time{};
  return ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &time) == nullptr ? 0 : static_cast<double>(::timegm(&time));
}

// Of a folder that no journal of states lies in: an assay older than it made it, and what can be told is told.
void state_without_journal(const fs::path& folder, const json& run, const json& config, FoundRun& found) {
  RunRow& row = found.row;
  row.created = unix_of_iso(run.value("created", ""));
  registry::Attempt attempt;
  attempt.attempt = 1;
  if (const auto exit = read_exit(folder)) {
    bool finished = false;
    const std::string events = frozen(folder / "events.jsonl");
    const bool command = config.value("trainer", json::object()).value("kind", "") == "command";
    if (command) finished = fs::exists(folder / "metrics.jsonl") && fs::file_size(folder / "metrics.jsonl") > 0;
    else finished = events.find("\"finished\"") != std::string::npos;
    row.state = final_state(*exit, finished, command);
    row.started = attempt.started = exit->started;
    row.ended = attempt.ended = exit->ended;
  } else {
    const bool started = fs::exists(folder / "supervisor.json");
    row.state = {StateKind::lost, {}, {}, started ? "its supervisor ended without a record"
                                                  : "its folder does not say whether it was to start"};
    row.ended = attempt.ended = row.created;
    if (!started) return;
    attempt.started = row.started = row.created;
  }
  attempt.state = row.state;
  row.attempt = 1;
  found.attempts = {attempt};
}

// Everything of a run that its folder tells. Throws std::runtime_error or json::exception when that cannot be read.
FoundRun read_run(const fs::path& folder) {
  FoundRun found;
  RunRow& row = found.row;
  json run = json::parse(support::read_file(folder / "run.json"));
  row.number = run.at("number").get<std::int64_t>();
  row.series = run.at("series").get<std::string>();
  row.run = run.at("run").get<std::string>();
  row.seed = run.value("seed", std::int64_t{0});
  row.batch = run.value("batch", "");
  row.folder = folder.string();
  row.config_json = support::read_file(folder / "config.json");
  row.config_sha256 = without_newline(support::read_file(folder / "config.sha256"));
  row.derived_json = frozen(folder / "derived.json");
  run.erase("number");
  row.run_json = run.dump(-1, ' ', false, json::error_handler_t::replace);
  found.facts = {frozen(folder / "code.json"), frozen(folder / "environment.json"), frozen(folder / "inputs.json")};
  const auto lines = registry::read_states(folder, found.bad_states);
  if (lines.empty()) state_without_journal(folder, run, json::parse(row.config_json), found);
  else found.attempts = registry::replay_states(lines, row);
  return found;
}

// A registry made from the folders in `file`, which is not there yet.
Rebuilt build_from_folders(const Paths& paths, const fs::path& file) {
  Rebuilt result;
  const auto remark = [&](const std::string& text) { result.remarks.push_back(text); };
  Registry registry = Registry::open(file, Registry::Access::read_write);
  try {
    for (const auto& [name, limit] : read_groups(paths)) registry.set_group(name, limit);
  } catch (const std::exception& error) {
    remark(error.what());
  }
  std::set<std::string> series;
  for (const fs::path& folder : folders_in(paths.series())) {
    const fs::path document = folder / "series.json";
    if (!fs::exists(document)) continue;
    try {
      const std::string text = without_newline(support::read_file(document));
      const json object = json::parse(text);
      registry.put_series({object.at("id").get<std::string>(), object.value("title", ""), object.value("goal", ""), text});
      series.insert(object.at("id").get<std::string>());
    } catch (const std::exception& error) {
      remark(document.string() + ": " + error.what());
    }
  }
  std::map<std::int64_t, FoundRun> runs;
  for (const fs::path& folder : run_folders(paths)) {
    try {
      FoundRun found = read_run(folder);
      if (found.bad_states > 0)
        remark(folder.string() + ": " + std::to_string(found.bad_states) + " lines of states.jsonl could not be read");
      const auto [first, fresh] = runs.emplace(found.row.number, std::move(found));
      if (!fresh) remark(folder.string() + ": run " + std::to_string(first->first) + " is already in " + first->second.row.folder);
    } catch (const std::exception& error) {
      remark(folder.string() + ": left out: " + error.what());
    }
  }
  for (auto& [number, found] : runs) {
    RunRow& row = found.row;
    if (series.insert(row.series).second) {
      remark("series " + row.series + ": its series.json is gone; only its id is known");
      registry.put_series({row.series, "", "", json{{"id", row.series}}.dump()});
    }
    for (std::vector<std::int64_t>* after : {&row.after, &row.after_any})
      std::erase_if(*after, [&](std::int64_t other) {
        const bool gone = other >= number || runs.count(other) == 0;
        if (gone) remark(row.folder + ": it waits for run " + std::to_string(other) + ", of which there is no folder");
        return gone;
      });
    try {
      registry.batch([&] {
        registry.restore_run(row, found.facts, found.attempts);
        Ingest ingest(registry, number, row.folder, planned_steps(row.config_json));
        if (registry::is_final(row.state.kind)) ingest.finish();
        else ingest.poll();
        const int bad = take_records(registry, row.folder, row.series, number);
        if (bad > 0) remark(row.folder + ": " + std::to_string(bad) + " lines of records.jsonl could not be read");
      });
      ++result.runs;
    } catch (const std::exception& error) {
      remark(row.folder + ": left out: " + error.what());
    }
  }
  for (const std::string& id : series) {
    const int bad = take_records(registry, paths.series() / id, id, 0);
    if (bad > 0) remark("series " + id + ": " + std::to_string(bad) + " lines of records.jsonl could not be read");
    result.records += registry.records_of_series(id).size();
  }
  result.series = series.size();
  return result;
}

void remove_registry(const fs::path& file) {
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    std::error_code ignored;
    fs::remove(file.string() + suffix, ignored);
  }
}

// Everything a comparison of two registries looks at, table by table, as JSON.
std::map<std::string, json> content(const Registry& registry, std::int64_t number) {
  std::map<std::string, json> all;
  const RunRow row = registry.run(number).value();
  all["runs"] = {row.series, row.run,   row.seed,  row.batch, row.folder,      row.config_sha256, row.config_json, row.derived_json,
                 row.run_json, row.priority, row.after, row.after_any, row.group, row.held, row.hidden, row.not_before, row.state.fault, row.attempt, row.created, row.started, row.ended, registry::name(row.state.kind),
                 row.state.exit_code.value_or(-1), row.state.signal.value_or(-1), row.state.detail};
  const auto facts = registry.facts(number).value();
  all["run_texts"] = {facts.code_json, facts.environment_json, facts.inputs_json};
  for (const registry::Attempt& attempt : registry.attempts(number))
    all["attempts"].push_back({attempt.attempt, registry::name(attempt.state.kind), attempt.state.detail, attempt.started, attempt.ended});
  json metrics = json::array();
  for (const registry::MetricPoint& point : registry.metrics(number)) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &point.value, sizeof bits);  // NaN is not equal to itself
    metrics.push_back({point.step, point.key, point.value != point.value ? 0 : bits});
  }
  all["metrics"] = std::move(metrics);
  for (const registry::Evaluation& evaluation : registry.evaluations(number, true)) {
    json outcomes = json::array();
    for (const registry::Outcome& outcome : evaluation.outcomes)
      outcomes.push_back({outcome.index, outcome.outcome, outcome.format_right, outcome.arithmetic_right});
    all["evaluations"].push_back({evaluation.step, evaluation.problems, evaluation.correct, evaluation.format_right,
                                  evaluation.arithmetic_right, evaluation.quant, evaluation.trained_quant, evaluation.data_sha256, outcomes});
  }
  for (const registry::Event& event : registry.events(number))
    if (event.kind != "bad_line")  // its time is that of the moment it was read
      all["events"].push_back({event.time, event.step, event.kind, event.message, event.data_json});
  for (const registry::Record& record : registry.records_of_run(number)) all["records"].push_back(to_json(record));
  for (const char* kind : {"doctor", "quant-report"})
    if (const auto document = registry.document(number, kind)) all["documents"].push_back({kind, *document});
  const registry::Progress progress = registry.progress(number);
  all["progress"] = {progress.step, progress.total_steps, progress.score.value_or(-1), progress.accuracy.value_or(-1)};
  return all;
}

void check_deep(const Paths& paths, const Registry& registry, std::vector<Finding>& findings) {
  const fs::path scratch = paths.data / (".fsck." + std::to_string(::getpid()) + ".sqlite");
  struct Remover {
    fs::path file;
    ~Remover() { remove_registry(file); }
  } remover{scratch};
  remove_registry(scratch);
  for (const std::string& remark : build_from_folders(paths, scratch).remarks)
    findings.push_back({"a rebuild", remark, "put the file back from a copy"});
  const Registry other = Registry::open(scratch, Registry::Access::read_only);
  for (const RunRow& row : registry.runs({})) {
    if (!registry::is_final(row.state.kind) || !other.run(row.number)) continue;
    const auto ours = content(registry, row.number), folders = content(other, row.number);
    std::set<std::string> tables;
    for (const auto& [table, rows] : ours) tables.insert(table);
    for (const auto& [table, rows] : folders) tables.insert(table);
    for (const std::string& table : tables) {
      const auto a = ours.find(table), b = folders.find(table);
      if (a != ours.end() && b != folders.end() && a->second == b->second) continue;
      findings.push_back({"run " + std::to_string(row.number), "its rows of " + table + " are not what its folder gives",
                          "type `assay rebuild`, which takes what the folder says"});
    }
  }
}

void check_run(const Registry& registry, const RunRow& row, std::vector<Finding>& findings) {
  const std::string where = "run " + std::to_string(row.number);
  const fs::path folder = row.folder;
  const auto wrong = [&](const std::string& what, const std::string& todo) { findings.push_back({where, what, todo}); };
  const char* const kFromCopy = "put it back from a copy; a frozen file never changes";
  const char* const kRebuild = "type `assay rebuild`, which takes what the folder says";
  if (!fs::is_directory(folder)) return wrong("its folder " + row.folder + " is gone", "put it back from a copy");
  FoundRun found;
  try {
    found = read_run(folder);
  } catch (const std::exception& error) {
    return wrong(error.what(), kFromCopy);
  }
  if (found.row.number != row.number || found.row.series != row.series || found.row.run != row.run || found.row.seed != row.seed)
    return wrong(row.folder + "/run.json is another run's", kFromCopy);
  const std::string sum = support::sha256_hex(found.row.config_json);
  if (sum != found.row.config_sha256 || found.row.config_sha256 != row.config_sha256 || found.row.config_json != row.config_json)
    wrong("config.json is not what was frozen (its SHA-256 is " + sum.substr(0, 12) + "…, and that of the registry " +
              row.config_sha256.substr(0, 12) + "…)", kFromCopy);
  if (found.row.run_json != row.run_json || found.row.derived_json != row.derived_json)
    wrong("run.json or derived.json is not what the registry holds", kFromCopy);
  const registry::RunFacts facts = registry.facts(row.number).value();
  for (const auto& [name, ours, file] : {std::tuple("code.json", facts.code_json, found.facts.code_json),
                                         std::tuple("environment.json", facts.environment_json, found.facts.environment_json),
                                         std::tuple("inputs.json", facts.inputs_json, found.facts.inputs_json)})
    if (ours != file) wrong(std::string(name) + " is not what the registry holds", kFromCopy);
  if (!registry::is_final(row.state.kind)) return;

  if (found.row.state.kind != row.state.kind || found.row.attempt != row.attempt)
    wrong(std::string("the registry says ") + registry::name(row.state.kind) + " (attempt " + std::to_string(row.attempt) +
              "), its folder says " + registry::name(found.row.state.kind) + " (attempt " + std::to_string(found.row.attempt) + ")", kRebuild);
  const bool origin = json::parse(row.run_json, nullptr, false).contains("origin");  // imported: it has no supervisor
  if (row.state.kind == StateKind::succeeded && !origin && !fs::exists(folder / "exit.json"))
    wrong("it counts as succeeded and has no exit.json", "put exit.json back from a copy, or type `assay rebuild`");
  std::vector<std::string> files = {"metrics.jsonl", "events.jsonl"};
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder / "eval", none))
    if (entry.path().extension() == ".json") files.push_back("eval/" + entry.path().filename().string());
  for (const std::string& name : files) {
    const auto size = fs::file_size(folder / name, none);
    const std::int64_t read = registry.ingested_bytes(row.number, name);
    const std::int64_t there = none ? 0 : static_cast<std::int64_t>(size);
    if (read == there) continue;
    if (read > there) {
      wrong(name + " has " + std::to_string(there) + " bytes, and " + std::to_string(read) + " were read of it once", "put it back from a copy");
    } else if (support::read_file(folder / name).find('\n', static_cast<std::size_t>(read)) != std::string::npos) {
      wrong(std::to_string(there - read) + " bytes of " + name + " are not in the registry", kRebuild);
    }
  }
}

void check_records(const fs::path& folder, const Registry& registry, const std::string& series, std::int64_t run,
                   std::vector<Finding>& findings) {
  const fs::path file = folder / "records.jsonl";
  std::error_code none;
  const std::int64_t read = registry.recorded_bytes(series, run);
  const auto size = fs::file_size(file, none);
  const std::int64_t there = none ? 0 : static_cast<std::int64_t>(size);
  if (read > there)
    findings.push_back({file.string(), "it is shorter than what was read of it once", "put it back from a copy"});
  else if (there > read && support::read_file(file).find('\n', static_cast<std::size_t>(read)) != std::string::npos)
    findings.push_back({file.string(), "its last " + std::to_string(there - read) + " bytes are not in the registry",
                        "start the daemon once; if this stays, a line of it is damaged"});
}

}  // namespace

std::vector<Finding> check_registry(const Paths& paths, const Registry& registry, bool deep) {
  std::vector<Finding> findings;
  for (const std::string& problem : registry.problems())
    findings.push_back({paths.registry().string(), problem, "stop the daemon and type `assay rebuild`"});
  std::set<fs::path> known;
  for (const RunRow& row : registry.runs({})) {
    known.insert(fs::path(row.folder).lexically_normal());
    check_run(registry, row, findings);
    check_records(row.folder, registry, row.series, row.number, findings);
  }
  for (const fs::path& folder : run_folders(paths))
    if (known.count(folder.lexically_normal()) == 0)
      findings.push_back({folder.string(), "this run folder is of no run in the registry", "stop the daemon and type `assay rebuild`"});
  for (const registry::SeriesRow& row : registry.all_series()) {
    const fs::path folder = paths.series() / row.id, document = folder / "series.json";
    check_records(folder, registry, row.id, 0, findings);
    if (!fs::exists(document))
      findings.push_back({document.string(), "it is gone", "queue a run of the series again, or put it back from a copy"});
    else if (without_newline(support::read_file(document)) != row.json)
      findings.push_back({document.string(), "it is not what the registry holds", "type `assay rebuild`, which takes what the file says"});
  }
  try {
    if (read_groups(paths) != registry.groups())
      findings.push_back({(paths.data / "groups.json").string(), "it is not what the registry holds",
                          "type `assay daemon restart`, which takes what the file says"});
  } catch (const std::exception& error) {
    findings.push_back({(paths.data / "groups.json").string(), error.what(), "correct it"});
  }
  if (deep) check_deep(paths, registry, findings);
  return findings;
}

Rebuilt rebuild_registry(const Paths& paths) {
  if (!fs::is_directory(paths.data)) throw UserError(kNoSuchRun, paths.data.string() + ": there is nothing to rebuild from; type `assay run SERIES`");
  const auto lock = FileLock::try_take(paths.lock());
  if (!lock) throw UserError(kDaemon, "rebuild: a daemon uses this registry; type `assay daemon stop` first (runs go on)");
  const fs::path file = paths.registry(), fresh = file.string() + ".rebuilt." + std::to_string(::getpid());
  remove_registry(fresh);
  Rebuilt result;
  try {
    result = build_from_folders(paths, fresh);
    const auto made = Registry::open(fresh, Registry::Access::read_write);
    if (const auto problems = made.problems(); !problems.empty()) throw std::runtime_error(fresh.string() + ": " + problems.front());
  } catch (...) {
    remove_registry(fresh);
    throw;
  }
  if (fs::exists(fresh.string() + "-wal")) throw std::runtime_error(fresh.string() + ": is in use by another process");
  if (fs::exists(file)) {
    std::string stamp = iso_time(unix_now());
    std::erase(stamp, ':');
    result.former = file.string() + ".before-rebuild-" + stamp;
    const std::string name = result.former.string();
    // Linked, not moved: at no moment is there no registry. Its log goes first, which must not meet the new file.
    for (int again = 2; ::link(file.c_str(), result.former.c_str()) != 0; ++again) {
      if (errno != EEXIST) throw std::runtime_error(result.former.string() + ": " + std::strerror(errno));
      result.former = name + "." + std::to_string(again);   // two within one second: both are kept
    }
    for (const char* suffix : {"-wal", "-shm"})
      if (fs::exists(file.string() + suffix)) fs::rename(file.string() + suffix, result.former.string() + suffix);
  }
  fs::rename(fresh, file);
  support::sync_folder(paths.data);
  return result;
}

void catch_up(const Paths& paths, Registry& registry, const std::function<void(const std::string&)>& tell) {
  if (const auto problems = registry.quick_problems(); !problems.empty())
    throw UserError(kFault, paths.registry().string() + ": is damaged (" + problems.front() +
                                "); type `assay rebuild`, which makes it anew from the run folders");
  restore_groups(paths, registry);
  Registry::RunFilter all;
  all.texts = false;
  const std::vector<RunRow> rows = registry.runs(all);
  std::size_t looked_at = 0;
  for (const RunRow& row : rows) {
    if (++looked_at % 1000 == 0) tell(std::to_string(looked_at) + " of " + std::to_string(rows.size()) + " run folders looked at");
    const fs::path folder = row.folder;
    std::error_code none;
    if (!fs::is_directory(folder, none)) continue;
    if (!fs::exists(folder / "states.jsonl")) {
      registry::append_state(folder, {row.created, 0, {StateKind::queued, {}, {}, ""}, row.priority, row.after, row.group, row.after_any}, true, false);
      for (const registry::Attempt& attempt : registry.attempts(row.number)) {
        registry::append_state(folder, {attempt.started, attempt.attempt, {StateKind::starting, {}, {}, ""}, 0, {}}, false, false);
        if (attempt.state.kind != StateKind::starting)
          registry::append_state(folder, {attempt.ended == 0 ? attempt.started : attempt.ended, attempt.attempt, attempt.state, 0, {}}, false, false);
      }
      const bool waits = row.state.kind == StateKind::queued || row.state.kind == StateKind::blocked;
      if ((waits && row.attempt > 0) || row.state.kind == StateKind::blocked || (row.attempt == 0 && !waits))
        registry::append_state(folder, {row.ended == 0 ? row.created : row.ended, row.attempt, row.state, 0, {}}, false, false);
    }
    take_records(registry, folder, row.series, row.number);
  }
  for (const registry::SeriesRow& row : registry.all_series()) take_records(registry, paths.series() / row.id, row.id, 0);
}

void refuse_to_forget(const Paths& paths) {
  if (fs::exists(paths.registry())) return;
  const auto folders = run_folders(paths);
  if (folders.empty()) return;
  throw UserError(kFault, paths.registry().string() + ": is gone, and there are " + std::to_string(folders.size()) +
                              " run folders beside it; put it back, or type `assay rebuild` to make it anew from them");
}

std::map<std::int64_t, std::string> cited_runs(const Registry& registry) {
  std::map<std::int64_t, std::string> cited;
  Registry::RunFilter all;
  const std::vector<RunRow> rows = registry.runs(all);
  const auto newest_of_each_seed = [&](const std::string& series, const std::string& run, const std::string& why) {
    std::map<std::int64_t, std::int64_t> newest;
    for (const RunRow& row : rows)
      if (row.series == series && row.run == run) newest[row.seed] = std::max(newest[row.seed], row.number);
    for (const auto& [seed, number] : newest) cited.emplace(number, why);
  };
  for (const registry::SeriesRow& series : registry.all_series())
    for (const registry::Record& record : registry.records_of_series(series.id)) {
      const std::string why = "a " + record.kind + " speaks of it";
      if (record.run != 0) cited.emplace(record.run, why);
      const json data = json::parse(record.data_json);
      if (record.kind == "verify") {
        if (const auto other = data.value("by", std::int64_t{0}); other != 0) cited.emplace(other, why);
      } else if (record.kind == "cause") {
        for (const char* key : {"run", "against"})
          if (data.contains(key)) newest_of_each_seed(series.id, data.value(key, ""), "the cause " + record.subject + " rests on it");
      } else if (record.run == 0 && !record.run_id.empty() && record.kind != "hypothesis") {
        newest_of_each_seed(series.id, record.run_id, why);
      }
    }
  // What was compared with something cannot be shown without it.
  std::vector<std::pair<std::string, std::string>> baselines;
  for (const RunRow& row : rows) {
    if (cited.count(row.number) == 0) continue;
    const json run = json::parse(row.run_json, nullptr, false);
    if (run.is_object() && !run.value("baseline", "").empty()) {
      const std::string series = run.value("baseline_series", "");
      baselines.emplace_back(series.empty() ? row.series : series, run.value("baseline", ""));
    }
  }
  for (const auto& [series, run] : baselines) newest_of_each_seed(series, run, "it is the baseline of a run that is spoken of");
  return cited;
}

}  // namespace assay::runner
