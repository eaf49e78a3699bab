#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

using nlohmann::json;
using registry::Registry;
using registry::RunRow;
using registry::StateKind;

constexpr std::int64_t kEndedShown = 20;

std::vector<RunRow> chosen(const Registry& registry, const std::vector<std::string>& words, bool all) {
  if (!words.empty()) return select_runs(registry, words);
  Registry::RunFilter filter;
  filter.texts = false;
  if (all) return registry.runs(filter);
  filter.states = {StateKind::queued, StateKind::blocked, StateKind::starting, StateKind::running};
  std::vector<RunRow> rows = registry.runs(filter);
  filter.states = {StateKind::succeeded, StateKind::failed,  StateKind::killed,
                   StateKind::lost,      StateKind::stalled, StateKind::skipped};
  filter.limit = kEndedShown;
  filter.hidden = false;
  for (RunRow& row : registry.runs(filter)) rows.push_back(std::move(row));
  std::sort(rows.begin(), rows.end(), [](const RunRow& a, const RunRow& b) { return a.number < b.number; });
  return rows;
}

// What the state alone does not tell: paused, waits, or runs without anything that can be read of it.
std::string state_of(const Registry& registry, const RunRow& row, const registry::Progress& progress,
                     const std::optional<std::string>& wait) {
  if (wait) return std::string(registry::name(row.state.kind)) + ": waits for " + *wait;
  std::string text = state_text(row.state);
  if (row.held && row.state.kind == StateKind::running) text = "paused; `assay resume " + std::to_string(row.number) + "`";
  else if (row.state.kind == StateKind::running && progress.step < 0)
    for (const registry::Event& event : registry.events(row.number))
      if (event.kind == "finding") text = "running: " + event.message;
  return text;
}

std::string time_text(const RunRow& row, const registry::Progress& progress, double now) {
  if (registry::is_final(row.state.kind)) return row.started > 0 ? "took " + duration(row.ended - row.started) : "-";
  if (row.state.kind != StateKind::running) return "-";
  if (const auto left = time_left(row, progress, now)) return duration(*left) + " left";
  return "for " + duration(now - row.started);
}

}  // namespace

std::function<int()> setup_status(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    bool all = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "runs or series; else those that have not ended, and the last 20 that have");
  app.add_flag("--all", options->all, "every run there is");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    const json daemon = client.request("status");
    const json& waits = daemon.at("waits");
    const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
    const std::vector<RunRow> rows = chosen(registry, options->words, options->all);
    const double now = unix_now();
    json documents = json::array();
    std::vector<std::vector<std::string>> table{{"number", "run", "series", "state", "step", "score", "accuracy", "time"}};
    for (const RunRow& row : rows) {
      const registry::Progress progress = registry.progress(row.number);
      const std::string key = std::to_string(row.number);
      const std::optional<std::string> wait =
          waits.contains(key) ? std::optional(waits.at(key).get<std::string>()) : std::nullopt;
      if (options->json) {
        documents.push_back(run_json(row, progress, wait));
        documents.back()["where"] = daemon.at("places").value(key, "");
        continue;
      }
      char score[32] = "-";
      if (progress.score) std::snprintf(score, sizeof score, "%.3f", *progress.score);
      const std::string state = state_of(registry, row, progress, wait);
      table.push_back({key, label(row), row.series, cut(state, 72),
                       progress.step < 0 ? "-"
                                         : std::to_string(progress.step) + "/" + std::to_string(progress.total_steps),
                       score, accuracy_text(progress, progress.accuracy ? registry.evaluations(row.number, false) : std::vector<registry::Evaluation>{}), time_text(row, progress, now)});
    }
    if (options->json) {
      std::printf("%s\n", documents.dump(2, ' ', false, json::error_handler_t::replace).c_str());
    } else if (rows.empty()) {
      std::printf("no runs yet; type `assay run SERIES`\n");
    } else {
      std::fputs(text_table(table, {0, 4, 5, 6}).c_str(), stdout);
      if (std::any_of(table.begin(), table.end(), [](const auto& cells) { return cells[6].ends_with("‡"); }))
        std::fputs(kOtherQuantNote, stdout);
      if (const auto left = daemon.value("restoring", std::size_t{0}); left > 0)
        std::printf("what %zu runs wrote while there was no daemon is still being read\n", left);
      if (const std::string closed = daemon.at("closed").get<std::string>(); !closed.empty())
        std::printf("nothing starts on this machine: %s\n", closed.c_str());
    }
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
