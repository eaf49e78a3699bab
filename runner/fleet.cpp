#include "runner/fleet.h"

#include <spdlog/spdlog.h>

#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "runner/ingest.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::StateKind;

constexpr auto kIngestEvery = std::chrono::milliseconds(100);

// Of all its ranks.
int threads_of(const json& config) {
  const json& train = config.at("train");
  return train.at("threads").get<int>() * train.value("ranks", 1);
}

Job job_of(const registry::RunRow& row) {
  Job job;
  job.number = row.number;
  job.cores = threads_of(json::parse(row.config_json));
  job.priority = row.priority;
  return job;
}

}  // namespace

struct Fleet::Timer : asio::steady_timer {
  using asio::steady_timer::steady_timer;
};

// A run that an executor has, or is about to get.
struct Fleet::Live {
  Live(registry::Registry& registry, const registry::RunRow& row, Executor& who, std::int64_t steps)
      : folder(row.folder), executor(who), ingest(registry, row.number, row.folder, steps) {}

  fs::path folder;
  Executor& executor;
  bool command_trainer = false;
  std::string waits;                         // what it waits for at its executor
  Ingest ingest;
};

Fleet::Fleet(asio::io_context& io, registry::Registry& registry, Paths paths, int slots, int log_fd,
             std::shared_ptr<spdlog::logger> log, std::function<void(std::int64_t)> changed)
    : io_(io), registry_(registry), paths_(std::move(paths)), slots_(slots), log_(std::move(log)),
      changed_(std::move(changed)), executors_(make_executors({io_, *this, paths_, log_fd, log_})),
      ingest_timer_(std::make_unique<Timer>(io)), apply_timer_(std::make_unique<Timer>(io)) {}

Fleet::~Fleet() = default;

std::map<std::int64_t, std::string> Fleet::waits() const {
  std::map<std::int64_t, std::string> texts = runner::waits(queue_, slots_);
  for (const auto& [number, live] : live_)
    if (!live->waits.empty()) texts[number] = live->waits;
  return texts;
}

Executor& Fleet::executor_of(const json& config) const {
  // Runs frozen before there was a choice have no such key.
  const std::string name = config.at("schedule").value("executor", "local");
  const auto found = executors_.find(name);
  if (found == executors_.end())
    throw std::invalid_argument("schedule.executor: this assay has no executor '" + name + "'; set it to \"local\"");
  return *found->second;
}

std::shared_ptr<Fleet::Live> Fleet::make_live(const registry::RunRow& row) {
  const json config = json::parse(row.config_json);
  auto live = std::make_shared<Live>(registry_, row, executor_of(config),
                                     config.at("train").at("steps").get<std::int64_t>());
  live->command_trainer = config.at("trainer").at("kind") == "command";
  return live;
}

void Fleet::restore() {
  registry::Registry::RunFilter unfinished;
  unfinished.states = {StateKind::starting, StateKind::running, StateKind::queued, StateKind::blocked};
  const std::vector<registry::RunRow> rows = registry_.runs(unfinished);
  for (const registry::RunRow& row : rows) states_[row.number] = row.state.kind;

  event::Submitted waiting;
  for (const registry::RunRow& row : rows) {
    Job job = job_of(row);
    if (row.state.kind == StateKind::starting || row.state.kind == StateKind::running) {
      advance(queue_, event::Active{job}, slots_);
      live_[row.number] = make_live(row);
      continue;
    }
    for (const std::int64_t dependency : row.after) {
      if (states_.count(dependency) != 0) {
        job.after.insert(dependency);
        continue;
      }
      const auto other = registry_.run(dependency);
      if (!other || other->state.kind != StateKind::succeeded) {
        job.after.insert(dependency);
        waiting.failed.insert(dependency);
      }
    }
    if (row.state.kind == StateKind::blocked && job.after.empty()) move(row.number, {StateKind::queued, {}, {}, ""}, 0);
    waiting.jobs.push_back(std::move(job));
  }
  log_->info("{} runs taken up: {} started before, {} waiting", rows.size(), live_.size(), waiting.jobs.size());
  // The waiting first: they must be there to hear how those they wait for have ended.
  happened(waiting);
  for (const registry::RunRow& row : rows)
    if (row.state.kind == StateKind::starting || row.state.kind == StateKind::running)
      live_.at(row.number)->executor.adopt({row, {}});
  schedule_ingest();
}

std::vector<std::int64_t> Fleet::submit(const Submission& submission) {
  for (const SubmittedRun& submitted : submission.runs) {
    const json config = json::parse(submitted.run.config_json);
    if (const std::string refused = executor_of(config).refusal(config); !refused.empty())
      throw std::invalid_argument(submission.series.id + "/" + submitted.run.run + ": " + refused);
  }
  const fs::path series_folder = paths_.series() / submission.series.id;
  fs::create_directories(series_folder);
  // Every record is first a file: the registry can be rebuilt from these and the run folders.
  support::write_file_atomically(series_folder / "series.json", submission.series.json + "\n");
  for (const FrozenFile& file : submission.files)
    if (file.name != "dirty.diff") support::write_file_atomically(series_folder / file.name, file.bytes);
  registry_.put_series(submission.series);

  std::vector<registry::NewRun> runs;
  for (const SubmittedRun& submitted : submission.runs) runs.push_back(submitted.run);
  std::vector<fs::path> made;
  std::vector<std::int64_t> numbers;
  try {
    numbers = registry_.add_runs(runs, [&](std::int64_t number, const registry::NewRun& run) {
      std::vector<FrozenFile> files = submission.files;
      const SubmittedRun& submitted = submission.runs.at(made.size());  // asked for in their order
      if (!submitted.doctor_json.empty()) files.push_back({"doctor.json", submitted.doctor_json});
      made.push_back(create_run_folder(paths_.runs(), number, run, files));
      return made.back().string();
    });
  } catch (...) {
    std::error_code ignored;
    for (const fs::path& folder : made) fs::remove_all(folder, ignored);
    throw;
  }

  event::Submitted event;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    states_[numbers[i]] = StateKind::queued;
    Job job;
    job.number = numbers[i];
    job.priority = runs[i].priority;
    job.cores = threads_of(json::parse(runs[i].config_json));
    for (const std::int64_t dependency : runs[i].after) {
      if (states_.count(dependency) == 0) {
        const auto other = registry_.run(dependency);
        if (other && other->state.kind == StateKind::succeeded) continue;
        event.failed.insert(dependency);
      }
      job.after.insert(dependency);
    }
    event.jobs.push_back(std::move(job));
    changed_(numbers[i]);
  }
  log_->info("{} runs of {} added: {} to {}", numbers.size(), submission.series.id, numbers.front(), numbers.back());
  asio::post(io_, [this, event] { happened(event); });  // whoever asked gets the numbers before the first one starts
  return numbers;
}

void Fleet::happened(const Event& event) {
  for (Action& action : advance(queue_, event, slots_)) undone_.push_back(std::move(action));
  if (!applying_) apply();
}

// In order, and none is dropped: when the registry cannot take one (disk full), it is tried again in a second.
void Fleet::apply() {
  applying_ = true;
  while (!undone_.empty()) {
    const Action action = undone_.front();
    try {
      apply_one(action);
      undone_.pop_front();
    } catch (const std::exception& fault) {
      log_->error("the queue: {}", fault.what());
      apply_timer_->expires_after(std::chrono::seconds(1));
      apply_timer_->async_wait([this](const asio::error_code& error) {
        if (!error) apply();
      });
      break;
    }
  }
  applying_ = false;
  start_decided();
}

void Fleet::apply_one(const Action& action) {
  const auto ended = [&](std::int64_t number) { return states_.count(number) == 0; };
  const double now = unix_now();
  if (const auto* begin = std::get_if<action::Start>(&action)) {
    if (!ended(begin->number)) start(begin->number);
  } else if (const auto* block = std::get_if<action::Block>(&action)) {
    if (!ended(block->number))
      move(block->number, {StateKind::blocked, {}, {}, "run " + std::to_string(block->on)}, now);
  } else if (const auto* unblock = std::get_if<action::Unblock>(&action)) {
    if (!ended(unblock->number)) move(unblock->number, {StateKind::queued, {}, {}, ""}, now);
  } else {
    const auto& skip = std::get<action::Skip>(action);
    if (ended(skip.number)) return;
    const std::string why = "run " + std::to_string(skip.because) + " did not succeed";
    move(skip.number, {StateKind::skipped, {}, {}, why}, now);
    log_->info("run {} skipped: {}", skip.number, why);
  }
}

void Fleet::move(std::int64_t number, const registry::State& next, double now) {
  const auto state = states_.find(number);
  if (state == states_.end()) throw std::logic_error("run " + std::to_string(number) + " has already ended");
  if (!registry_.transition(number, state->second, next, now))
    throw std::logic_error("run " + std::to_string(number) + " is not " + registry::name(state->second) +
                           " in the registry");
  if (registry::is_final(next.kind)) states_.erase(state);
  else state->second = next.kind;
  changed_(number);
}

void Fleet::start(std::int64_t number) {
  const auto row = registry_.run(number);
  if (!row) throw std::logic_error("run " + std::to_string(number) + " is not in the registry");
  const auto live = make_live(*row);
  // Recorded first: after a crash right here the run is found starting, and started by the next daemon.
  move(number, {StateKind::starting, {}, {}, ""}, unix_now());
  live_[number] = live;
  Attempt attempt{*row, {}};
  ++attempt.row.attempt;
  attempt.row.state.kind = StateKind::starting;
  decided_[&live->executor].push_back(std::move(attempt));
  schedule_ingest();
}

void Fleet::start_decided() {
  const auto decided = std::exchange(decided_, {});
  for (const auto& [executor, attempts] : decided) executor->start(attempts);
}

void Fleet::running(std::int64_t number) {
  const auto state = states_.find(number);
  if (state == states_.end() || state->second != StateKind::starting) return;
  move(number, {StateKind::running, {}, {}, ""}, unix_now());
  const std::string where = live_.at(number)->executor.where(number);
  log_->info("run {} runs{}{}", number, where.empty() ? "" : ": ", where);
}

void Fleet::waits(std::int64_t number, const std::string& why) {
  const auto found = live_.find(number);
  if (found == live_.end() || found->second->waits == why) return;
  found->second->waits = why;
  changed_(number);
}

void Fleet::ended(std::int64_t number, const Ending& ending, double when) {
  const auto found = live_.find(number);
  if (found == live_.end()) return;
  const std::shared_ptr<Live> live = found->second;
  live->ingest.finish();
  registry::State state;
  if (const auto* record = std::get_if<ExitRecord>(&ending)) {
    const bool finished = live->command_trainer ? live->ingest.any_metrics() : live->ingest.finished_event();
    state = final_state(*record, finished, live->command_trainer);
  } else {
    state = std::get<registry::State>(ending);
  }
  move(number, state, when);
  live_.erase(number);
  log_->info("run {} {}{}{}", number, registry::name(state.kind), state.detail.empty() ? "" : ": ", state.detail);
  happened(event::Ended{number, state.kind == StateKind::succeeded});
}

void Fleet::kill(const std::vector<std::int64_t>& numbers, const KillRequest& request) {
  for (const std::int64_t number : numbers) {
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

void Fleet::schedule_ingest() {
  if (ingesting_ || live_.empty()) return;
  ingesting_ = true;
  ingest_timer_->expires_after(kIngestEvery);
  ingest_timer_->async_wait([this](const asio::error_code& error) {
    ingesting_ = false;
    if (error) return;
    const auto runs = live_;
    for (const auto& [number, live] : runs) {
      try {
        if (live->ingest.poll()) changed_(number);
      } catch (const std::exception& fault) {
        log_->error("run {}: reading its folder: {}", number, fault.what());  // tried again at the next turn
      }
    }
    schedule_ingest();
  });
}

}  // namespace assay::runner
