#include "runner/fleet.h"

#include <spdlog/spdlog.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "runner/attempts.h"
#include "runner/fleet_live.h"
#include "runner/ingest.h"
#include "runner/process.h"
#include "support/fault_point.h"

namespace assay::runner {
namespace {

using nlohmann::json;
using registry::StateKind;

constexpr auto kDiskEvery = std::chrono::seconds(5);   // while it is nearly full

std::string gibibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", bytes / (1 << 30));
  return text;
}

}  // namespace

Fleet::Fleet(asio::io_context& io, registry::Registry& registry, Paths paths, Resources resources, int log_fd,
             std::shared_ptr<spdlog::logger> log, std::function<void(std::int64_t)> changed)
    : io_(io), registry_(registry), paths_(std::move(paths)), disk_reserve_(resources.disk_reserve),
      briefest_(resources.briefest), log_(std::move(log)),
      changed_(std::move(changed)), executors_(make_executors({io_, *this, paths_, log_fd, log_})),
      ingest_timer_(std::make_unique<Timer>(io)), apply_timer_(std::make_unique<Timer>(io)),
      due_timer_(std::make_unique<Timer>(io)), disk_timer_(std::make_unique<Timer>(io)), spare_(paths_.data / ".next-run") {
  queue_.machine = std::move(resources.machine);
  queue_.limits = registry_.groups();
}

Fleet::~Fleet() = default;

struct Fleet::Parsed {
  std::string text;
  json config;
};

// One series is added again and again, and its runs differ in little else than their numbers.
const json& Fleet::parsed(const std::string& config) {
  if (!parsed_ || parsed_->text != config) parsed_ = std::make_unique<Parsed>(Parsed{config, json::parse(config)});
  return parsed_->config;
}

std::map<std::int64_t, std::string> Fleet::waits() const {
  std::map<std::int64_t, std::string> texts = runner::waits(queue_, unix_now());
  for (const auto& [number, live] : live_)
    if (!live->waits.empty()) texts[number] = live->waits;
  return texts;
}

std::map<std::int64_t, std::string> Fleet::places() const {
  std::map<std::int64_t, std::string> places;
  for (const auto& [number, live] : live_)
    if (std::string where = live->executor.where(number); !where.empty()) places[number] = std::move(where);
  return places;
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
  const json& config = parsed(row.config_json);
  auto live = std::make_shared<Live>(registry_, row, executor_of(config),
                                     config.at("train").at("steps").get<std::int64_t>());
  live->command_trainer = config.at("trainer").at("kind") == "command";
  return live;
}

Job Fleet::job_of(std::int64_t number, const json& config, const std::string& series, const std::string& group) const {
  const json& schedule = config.at("schedule");
  const json& train = config.at("train");
  Job job;
  job.number = number;
  job.series = series;
  job.group = group;
  job.demand.here = executor_of(config).uses_this_machine();
  if (!job.demand.here) {
    job.demand.cores = 0;
    return job;
  }
  job.demand.cores = train.at("threads").get<int>() * train.value("ranks", 1);   // of all its ranks
  job.demand.memory = schedule.value("memory", std::int64_t{0});
  job.demand.gpus = std::max(schedule.value("gpus", 0), train.value("device", "cpu") == "cuda" ? train.value("ranks", 1) : 0);
  return job;
}

Job Fleet::job_of(const registry::RunRow& row) const {
  Job job = job_of(row.number, json::parse(row.config_json), row.series, row.group);
  job.priority = row.priority;
  job.held = row.held;
  job.not_before = row.not_before;
  return job;
}

void Fleet::refuse_what_never_fits(const std::string& what, const json& config) const {
  const Executor& executor = executor_of(config);
  if (const std::string refused = executor.refusal(config); !refused.empty())
    throw std::invalid_argument(what + ": " + refused);
  const std::string never = never_fits(job_of(0, config, "", "").demand, queue_.machine);
  if (!never.empty())
    throw std::invalid_argument(what + ": it needs " + never +
                                "; lower train.threads, train.ranks, schedule.memory or schedule.gpus, or start the daemon with more "
                                "(`assay daemon --help`)");
}

// Of `after`, those that have not ended. With `success`, those that ended without it stay in and are told in `failed`.
std::set<std::int64_t> Fleet::unfinished(const std::vector<std::int64_t>& after, bool success,
                                         std::set<std::int64_t>* failed) const {
  std::set<std::int64_t> open;
  for (const std::int64_t run : after) {
    if (states_.count(run) == 0) {
      if (!success) continue;
      const auto other = registry_.run(run);
      if (other && other->state.kind == StateKind::succeeded) continue;
      failed->insert(run);
    }
    open.insert(run);
  }
  return open;
}

void Fleet::restore(std::function<void()> done) {
  restored_ = std::move(done);
  registry::Registry::RunFilter filter;
  filter.states = {StateKind::starting, StateKind::running, StateKind::queued, StateKind::blocked};
  const std::vector<registry::RunRow> rows = registry_.runs(filter);
  for (const registry::RunRow& row : rows) states_[row.number] = row.state.kind;

  event::Submitted waiting;
  for (const registry::RunRow& found : rows) {
    finish_edit(found);
    const registry::RunRow row = registry_.run(found.number).value();
    Job job = job_of(row);
    if (row.state.kind == StateKind::starting || row.state.kind == StateKind::running) {
      const std::vector<int> gpus = read_launch(row.folder).gpus;
      advance(queue_, event::Active{job, {gpus.begin(), gpus.end()}}, unix_now());
      live_[row.number] = make_live(row);
      continue;
    }
    job.after = unfinished(row.after, true, &waiting.failed);
    job.after_any = unfinished(row.after_any, false, nullptr);
    if (row.state.kind == StateKind::blocked && job.after.empty() && job.after_any.empty())
      move(row.number, {StateKind::queued, {}, {}, ""}, 0);
    waiting.jobs.push_back(std::move(job));
  }
  log_->info("{} runs taken up: {} started before, {} waiting", rows.size(), live_.size(), waiting.jobs.size());
  look_at_disk();
  // The waiting first: they must be there to hear how those they wait for have ended.
  happened(waiting);
  for (const registry::RunRow& row : rows)
    if (row.state.kind == StateKind::starting || row.state.kind == StateKind::running) {
      unadopted_.insert(row.number);
      restoring_.insert(row.number);
    }
  schedule_ingest();
  asio::post(io_, [this] { adopt_next(); });
}

// One, then whoever asks something has his turn.
void Fleet::adopt_next() {
  if (unadopted_.empty()) return tell_restored();
  adopt(*unadopted_.begin());
  asio::post(io_, [this] { adopt_next(); });
}

// Nothing when it has been.
void Fleet::adopt(std::int64_t number) {
  if (unadopted_.erase(number) == 0) return;
  const auto found = live_.find(number);
  if (found == live_.end()) return;
  const std::shared_ptr<Live> live = found->second;
  const registry::RunRow row = registry_.run(number).value();
  live->executor.adopt({row, read_launch(row.folder).gpus});
  if (live_.count(number) == 0 || live->ending) return;
  if (row.held) live->executor.pause(number, true);
  restoring_.erase(number);
}

void Fleet::tell_restored() {
  if (unadopted_.empty() && restoring_.empty() && restored_) std::exchange(restored_, {})();
}

void Fleet::happened(const Event& event) {
  for (Action& action : advance(queue_, event, unix_now())) undone_.push_back(std::move(action));
  if (!applying_) apply();
  set_timers();
}

// Nothing starts with less free than the reserve: a full disk fails every run at once.
void Fleet::look_at_disk() {
  struct statvfs disk {};
  if (disk_reserve_ <= 0 || ::statvfs(paths_.data.c_str(), &disk) != 0) return;
  const double free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  const std::string why = free >= disk_reserve_ ? ""
                                                : "disk space (" + gibibytes(free) + " free in " + paths_.data.string() +
                                                      ", " + gibibytes(disk_reserve_) + " are kept free)";
  if (why.empty() == queue_.closed.empty()) return;
  log_->warn("{}", why.empty() ? "there is disk space again: runs start" : "nothing starts: " + why);
  happened(event::Closed{why});
}

void Fleet::set_timers() {
  if (const auto due = next_due(queue_)) {
    due_timer_->expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
        std::chrono::duration<double>(std::clamp(*due - unix_now(), 0.0, 60.0) + 0.001)));
    due_timer_->async_wait([this](const asio::error_code& error) {
      if (!error) happened(event::Tick{});
    });
  }
  if (!queue_.closed.empty()) {
    disk_timer_->expires_after(kDiskEvery);
    disk_timer_->async_wait([this](const asio::error_code& error) {
      if (error) return;
      look_at_disk();
      set_timers();
    });
  }
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
    if (!ended(begin->number) && !drained_) start(*begin);
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
  record_state(number, next, now);
  moved(number, next);
}

void Fleet::record_state(std::int64_t number, const registry::State& next, double now) {
  const auto state = states_.find(number);
  if (state == states_.end()) throw std::logic_error("run " + std::to_string(number) + " has already ended");
  if (!registry_.transition(number, state->second, next, now))
    throw std::logic_error("run " + std::to_string(number) + " is not " + registry::name(state->second) +
                           " in the registry");
}

// Once that is committed: whoever is told looks at once.
void Fleet::moved(std::int64_t number, const registry::State& next) {
  if (registry::is_final(next.kind)) states_.erase(number);
  else states_[number] = next.kind;
  changed_(number);
}

void Fleet::start(const action::Start& decided) {
  const auto row = registry_.run(decided.number);
  if (!row) throw std::logic_error("run " + std::to_string(decided.number) + " is not in the registry");
  Attempt attempt{*row, decided.gpus};
  LaunchRecord launch{row->attempt + 1, attempt.gpus, false};
  if (row->attempt > 0) {
    launch.resume = has_checkpoint(row->folder);
    set_aside(row->folder, row->attempt, !launch.resume);
    if (!launch.resume) registry_.forget_progress(row->number);
  }
  write_launch(row->folder, launch);
  const auto live = make_live(*row);
  // Recorded first: after a crash right here the run is found starting, and started by the next daemon.
  move(row->number, {StateKind::starting, {}, {}, ""}, unix_now());
  live_[row->number] = live;
  support::fault_point("daemon: start recorded");
  ++attempt.row.attempt;
  attempt.row.state.kind = StateKind::starting;
  decided_[&live->executor].push_back(std::move(attempt));
  schedule_ingest();
}

void Fleet::start_decided() {
  const auto decided = std::exchange(decided_, {});
  for (const auto& [executor, attempts] : decided) executor->start(attempts);
}

// Resources::briefest.
void Fleet::running(std::int64_t number) {
  const auto state = states_.find(number);
  const auto found = live_.find(number);
  if (state == states_.end() || state->second != StateKind::starting || found == live_.end() || found->second->begun) return;
  found->second->begun.emplace(io_);
  record_running_in(number, briefest_);
}

void Fleet::record_running_in(std::int64_t number, std::chrono::milliseconds delay) {
  asio::steady_timer& timer = *live_.at(number)->begun;
  timer.expires_after(delay);
  timer.async_wait([this, number](const asio::error_code& error) {
    if (error) return;
    try {
      record_running(number);
    } catch (const std::exception& fault) {   // a full disk: again in a second
      log_->error("run {}: recording that it runs: {}", number, fault.what());
      if (const auto found = live_.find(number); found != live_.end() && found->second->begun)
        record_running_in(number, std::chrono::seconds(1));
    }
  });
}

void Fleet::record_running(std::int64_t number) {
  const auto state = states_.find(number);
  const auto found = live_.find(number);
  if (state == states_.end() || state->second != StateKind::starting || found == live_.end() || !found->second->begun) return;
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

bool Fleet::ended(std::int64_t number, const Ending& ending, double when) {
  const auto found = live_.find(number);
  if (found == live_.end()) return true;
  const std::shared_ptr<Live> live = found->second;
  live->ending = true;
  registry::State state;
  std::optional<registry::RunRow> row;
  std::optional<double> retry;
  const auto settle = [&] {
    // What was written while there was no daemon can be gigabytes; nobody's question waits for all of them.
    if (live->ingest.poll(); live->ingest.unread()) return;
    live->ingest.finish();
    if (const auto* record = std::get_if<ExitRecord>(&ending)) {
      const bool finished = live->command_trainer ? live->ingest.any_metrics() : live->ingest.finished_event();
      state = final_state(*record, finished, live->command_trainer);
      if (record->kind == "exited" && record->code == 0 && !finished)
        if (const std::string said = live->ingest.last_finding(); !said.empty()) state.detail = said;
    } else {
      state = std::get<registry::State>(ending);
    }
    state.fault = fault_of(state, live->command_trainer);
    row = registry_.run(number);
    if (!row) throw std::logic_error("run " + std::to_string(number) + " is not in the registry");
    const auto asked = read_kill(live->folder);
    if (state.kind == StateKind::killed && asked && asked->by == kPausedToCheckpoint) {
      retry = 0;   // not an end: it goes on when somebody lets it
    } else if (!asked && !state.fault.empty()) {   // one that somebody wants ended stays so, however it ended
      std::int64_t count = 1;
      for (const registry::Attempt& former : registry_.attempts(number))
        count += former.attempt < row->attempt && former.state.fault == state.fault;
      retry = retry_after(json::parse(row->config_json), state.fault, count);
    }
    if (retry) return;
    record_state(number, state, when);
    if (row->held) registry_.edit_run(number, held_edit(false));
  };
  try {
    registry_.batch(settle);   // what it wrote last and how it ended: one durable write
  } catch (...) {
    live->ingest.forget();     // rolled back: what is kept there must not run ahead of the registry
    throw;
  }
  if (live->ingest.unread()) {
    changed_(number);
    return false;
  }
  if (retry) again(number, state, when, *retry);
  else moved(number, state);
  live_.erase(number);
  log_->info("run {} {}{}{}{}", number, registry::name(state.kind), state.detail.empty() ? "" : ": ", state.detail,
             retry ? "; it is started again" : "");
  if (retry) happened(event::Retry{number, *retry > 0 ? unix_now() + *retry : 0, row->held});
  else happened(event::Ended{number, state.kind == StateKind::succeeded});
  look_at_disk();
  if (restoring_.erase(number) > 0) tell_restored();
  if (drained_ && live_.empty()) asio::post(io_, drained_);
  return true;
}

// The attempt's end and the run's return to the queue, in one transaction.
void Fleet::again(std::int64_t number, const registry::State& ended, double when, double delay) {
  const StateKind before = states_.at(number);
  registry_.batch([&] {
    registry::RunEdit edit;
    edit.not_before = delay > 0 ? unix_now() + delay : 0;
    // What it ended with stays to be seen while it waits.
    registry::State queued{StateKind::queued, {}, {}, ended.detail};
    if (!registry_.transition(number, before, ended, when) || !registry_.transition(number, ended.kind, queued, unix_now()))
      throw std::logic_error("run " + std::to_string(number) + " is not " + registry::name(before) + " in the registry");
    registry_.edit_run(number, edit);
  });
  states_[number] = StateKind::queued;
  changed_(number);
}

void Fleet::drain(const KillRequest& request, std::function<void()> done) {
  drained_ = std::move(done);
  std::vector<std::int64_t> numbers;
  for (const auto& [number, live] : live_) numbers.push_back(number);
  if (numbers.empty()) asio::post(io_, drained_);
  kill(numbers, request);
}

void Fleet::schedule_ingest() {
  if (ingesting_ || live_.empty()) return;
  ingesting_ = true;
  // Often enough that a point shows within a tenth of a second; with many runs less often, as each round has its price.
  ingest_timer_->expires_after(std::chrono::milliseconds(std::min<std::size_t>(30 + live_.size(), 90)));
  ingest_timer_->async_wait([this](const asio::error_code& error) {
    ingesting_ = false;
    if (error) return;
    ingest_all();
    schedule_ingest();
  });
}

// One transaction, and one durable write, for all runs.
void Fleet::ingest_all() {
  std::map<std::int64_t, std::shared_ptr<Live>> fresh;
  std::vector<std::int64_t> changed;
  for (const auto& [number, live] : live_)
    if (live->ingest.anything_new()) fresh.emplace(number, live);
  if (fresh.empty()) return;
  try {
    registry_.batch([&] {
      for (const auto& [number, live] : fresh) {
        try {
          if (live->ingest.poll()) changed.push_back(number);
        } catch (const std::exception& fault) {
          log_->error("run {}: reading its folder: {}", number, fault.what());  // tried again at the next turn
        }
      }
    });
  } catch (const std::exception& fault) {
    log_->error("reading run folders: {}", fault.what());
    for (const auto& [number, live] : fresh) live->ingest.forget();
    return;
  }
  for (const std::int64_t number : changed) changed_(number);
}

}  // namespace assay::runner
