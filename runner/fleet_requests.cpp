// What users ask of runs that are there already.
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/attempts.h"
#include "runner/care.h"
#include "runner/fleet_live.h"
#include "runner/groups.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::RunRow;
using registry::StateKind;

constexpr double kCheckpointGrace = 600;   // seconds that a trainer has to write its checkpoint before SIGKILL

std::string run_text(std::int64_t number) { return "run " + std::to_string(number); }

RunRow row_of(const registry::Registry& registry, std::int64_t number) {
  auto row = registry.run(number);
  if (!row) throw std::invalid_argument(run_text(number) + ": there is no such run");
  return std::move(*row);
}

std::uintmax_t size_of_tree(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  std::error_code error;
  for (auto at = fs::recursive_directory_iterator(folder, error); !error && at != fs::recursive_directory_iterator();
       at.increment(error))
    if (at->is_regular_file(error)) bytes += at->file_size(error);
  return bytes;
}

}  // namespace

void Fleet::kill(const std::vector<std::int64_t>& numbers, const KillRequest& request) {
  for (const std::int64_t number : numbers) {
    adopt(number);
    const auto state = states_.find(number);
    if (state == states_.end()) continue;
    const auto found = live_.find(number);
    if (found == live_.end()) {
      move(number, {StateKind::killed, {}, {}, request.by}, unix_now());
      log_->info("run {} killed before its start by {}", number, request.by);
      happened(event::Ended{number, false});
      continue;
    }
    const std::shared_ptr<Live> live = found->second;  // ending it may take it out
    write_kill(live->folder, request);
    live->executor.end(number, request);
    log_->info("run {} is being ended by {}", number, request.by);
  }
}

void Fleet::pause(const std::vector<std::int64_t>& numbers, bool to_checkpoint, const std::string& by) {
  for (const std::int64_t number : numbers) {
    adopt(number);
    record_running(number);
    if (states_.count(number) == 0) continue;
    const auto found = live_.find(number);
    if (found == live_.end()) {
      hold(number, true);
    } else if (to_checkpoint) {
      const std::shared_ptr<Live> live = found->second;
      registry_.edit_run(number, held_edit(true));
      const KillRequest request{kPausedToCheckpoint, kCheckpointGrace};
      write_kill(live->folder, request);
      live->executor.end(number, request);
    } else {
      const std::shared_ptr<Live> live = found->second;
      // The file first: a supervisor that is just starting looks for it, and so does the next daemon.
      support::write_file_atomically(live->folder / "pause.json", json{{"by", by}}.dump() + "\n");
      if (!live->executor.pause(number, true)) {
        fs::remove(live->folder / "pause.json");
        throw std::invalid_argument(run_text(number) + ": " + live->executor.name() +
                                    " cannot stop it where it is; type `assay pause --checkpoint " +
                                    std::to_string(number) + "`");
      }
      registry_.edit_run(number, held_edit(true));
    }
    log_->info("run {} is paused by {}{}", number, by, to_checkpoint ? ", to a checkpoint" : "");
    changed_(number);
  }
}

void Fleet::resume(const std::vector<std::int64_t>& numbers) {
  for (const std::int64_t number : numbers) {
    adopt(number);
    if (states_.count(number) == 0) continue;
    const auto found = live_.find(number);
    if (found == live_.end()) {
      hold(number, false);
    } else {
      const std::shared_ptr<Live> live = found->second;
      registry_.edit_run(number, held_edit(false));
      fs::remove(live->folder / "pause.json");
      live->executor.pause(number, false);
    }
    log_->info("run {} goes on", number);
    changed_(number);
  }
}

void Fleet::hold(std::int64_t number, bool held) {
  const auto entry = queue_.entries.find(number);
  if (entry == queue_.entries.end() || entry->second.job.held == held) return;
  registry_.edit_run(number, held_edit(held));
  Job job = entry->second.job;
  job.held = held;
  happened(event::Edited{job});
}

void Fleet::restart(const std::vector<std::int64_t>& numbers, bool fresh) {
  std::vector<std::int64_t> sorted = numbers;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  std::vector<RunRow> rows;
  event::Submitted event;
  for (const std::int64_t number : sorted) {
    RunRow row = row_of(registry_, number);
    const std::string text = std::to_string(number);
    if (!registry::is_final(row.state.kind))
      throw std::invalid_argument(run_text(number) + ": it is " + registry::name(row.state.kind) +
                                  "; type `assay kill " + text + "` first");
    if (row.state.kind == StateKind::succeeded)
      throw std::invalid_argument(run_text(number) + ": it has succeeded, and its record stays as it is; type `assay run " +
                                  text + "` for a new run of the same configuration");
    refuse_what_never_fits(run_text(number), json::parse(row.config_json));
    Job job = job_of(row);
    job.held = false;
    job.not_before = 0;
    std::set<std::int64_t> failed;
    job.after = unfinished(row.after, true, &failed);
    job.after_any = unfinished(row.after_any, false, nullptr);
    for (const std::int64_t on : failed)
      if (!std::binary_search(sorted.begin(), sorted.end(), on))
        throw std::invalid_argument(run_text(number) + ": it waits for the success of run " + std::to_string(on) +
                                    ", which ended without; type `assay restart " + std::to_string(on) + " " + text + "`");
    event.jobs.push_back(std::move(job));
    rows.push_back(std::move(row));
  }
  registry_.batch([&] {
    for (const RunRow& row : rows) {
      if (fresh && row.attempt > 0) {
        set_aside(row.folder, row.attempt, true);
        registry_.forget_progress(row.number);
      }
      if (!registry_.transition(row.number, row.state.kind, {StateKind::queued, {}, {}, ""}, unix_now()))
        throw std::logic_error(run_text(row.number) + " changed meanwhile");
      registry::RunEdit edit = held_edit(false);
      edit.hidden = false;
      edit.not_before = 0;
      registry_.edit_run(row.number, edit);
    }
  });
  for (const RunRow& row : rows) {
    states_[row.number] = StateKind::queued;
    changed_(row.number);
    log_->info("run {} is started again", row.number);
  }
  happened(event);
}

void Fleet::edit(const EditRequest& request) {
  const std::int64_t number = request.number;
  const RunRow row = row_of(registry_, number);
  const auto entry = queue_.entries.find(number);
  if (entry == queue_.entries.end() || entry->second.place == Queue::Place::active)
    throw std::invalid_argument(run_text(number) + ": it is " + registry::name(row.state.kind) +
                                ", and only a run that has not started can be edited");
  if (request.edit.config && row.attempt > 0)
    throw std::invalid_argument(run_text(number) + ": it has been started before with its configuration; type `assay add " +
                                std::to_string(row.number) + "` with another");
  Job job = entry->second.job;
  if (request.edit.priority) job.priority = *request.edit.priority;
  if (request.edit.group) job.group = *request.edit.group;
  if (request.edit.config) {
    const json config = json::parse(request.edit.config->config_json);
    refuse_what_never_fits(run_text(number), config);
    job.demand = job_of(number, config, job.series, job.group).demand;
  }
  std::set<std::int64_t> failed;
  if (request.edit.after) job.after = unfinished(*request.edit.after, true, &failed);
  if (request.edit.after_any) job.after_any = unfinished(*request.edit.after_any, false, nullptr);
  if (!failed.empty())
    throw std::invalid_argument(run_text(number) + ": it is to wait for the success of run " +
                                std::to_string(*failed.begin()) + ", which ended without; use --after-any");
  for (const auto* list : {&job.after, &job.after_any})
    if (const auto way = circle(queue_, number, *list); !way.empty()) {
      std::string text;
      for (const std::int64_t run : way) text += (text.empty() ? "" : " waits for ") + std::to_string(run);
      throw std::invalid_argument(run_text(number) + ": it would wait for itself (" + text + ")");
    }
  if (request.edit.config) {
    // Whole before any of it shows: cut off from here on, the next daemon does the rest.
    const auto& config = *request.edit.config;
    support::write_file_atomically(fs::path(row.folder) / "edit.json",
                                   json{{"config", config.config_json},
                                        {"config_sha256", config.config_sha256},
                                        {"derived", config.derived_json},
                                        {"run", config.run_json}}.dump() + "\n");
  }
  registry_.edit_run(number, request.edit);
  finish_edit(row);
  log_->info("run {} is edited by {}", number, request.by);
  changed_(number);
  happened(event::Edited{job});
}

// The frozen files as edit.json has them, then the registry, then edit.json goes. Nothing when there is none.
void Fleet::finish_edit(const RunRow& row) {
  const fs::path folder = row.folder, journal = folder / "edit.json";
  if (!fs::exists(journal)) return;
  const json document = json::parse(support::read_file(journal));
  registry::RunEdit edit;
  edit.config = registry::RunEdit::Config{document.at("config").get<std::string>(),
                                          document.at("config_sha256").get<std::string>(),
                                          document.at("derived").get<std::string>(), document.at("run").get<std::string>()};
  json run = json::parse(edit.config->run_json);
  run["number"] = row.number;
  const auto put = [&](const char* name, const std::string& bytes) {
    support::write_file_atomically(folder / name, bytes);
    if (::chmod((folder / name).c_str(), 0444) != 0) throw std::runtime_error((folder / name).string() + ": cannot be made read-only");
  };
  put("config.json", edit.config->config_json);
  put("config.sha256", edit.config->config_sha256 + "\n");
  put("derived.json", edit.config->derived_json);
  put("run.json", run.dump(2) + "\n");
  registry_.edit_run(row.number, edit);
  fs::remove(journal);
}

std::uintmax_t Fleet::clean(const std::vector<std::int64_t>& numbers, bool checkpoints) {
  std::uintmax_t freed = 0;
  for (const std::int64_t number : numbers) {
    const RunRow row = row_of(registry_, number);
    if (!registry::is_final(row.state.kind))
      throw std::invalid_argument(run_text(number) + ": it is " + registry::name(row.state.kind) + ", not ended");
  }
  registry_.batch([&] {
    for (const std::int64_t number : numbers) {
      registry::RunEdit edit;
      edit.hidden = true;
      registry_.edit_run(number, edit);
    }
  });
  if (checkpoints) {
    const auto cited = cited_runs(registry_);   // what something rests on stays, whoever asks
    for (const std::int64_t number : numbers) {
      if (cited.count(number) != 0) continue;
      const fs::path folder = row_of(registry_, number).folder;
      std::vector<fs::path> places = {folder / "checkpoints"};
      std::error_code error;
      for (const auto& attempt : fs::directory_iterator(folder / "attempts", error))
        places.push_back(attempt.path() / "checkpoints");
      for (const fs::path& place : places) {
        const std::uintmax_t bytes = size_of_tree(place);
        fs::remove_all(place);
        freed += bytes;
      }
    }
  }
  for (const std::int64_t number : numbers) changed_(number);
  return freed;
}

void Fleet::set_group(const std::string& name, std::optional<int> limit) {
  const std::map<std::string, int> before = registry_.groups();
  std::map<std::string, int> limits = before;
  if (limit) limits[name] = *limit;
  else limits.erase(name);
  write_groups(paths_, limits);
  try {
    registry_.set_group(name, limit);
  } catch (...) {
    write_groups(paths_, before);
    throw;
  }
  log_->info("group {}: {}", name, limit ? std::to_string(*limit) + " runs at once" : "no limit");
  happened(event::Limited{name, limit});
}

}  // namespace assay::runner
