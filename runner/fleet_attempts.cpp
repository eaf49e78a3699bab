// An attempt's course: it starts, it runs, it ends.
#include <spdlog/spdlog.h>

#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "runner/attempts.h"
#include "runner/fleet_live.h"
#include "runner/process.h"
#include "support/fault_point.h"

namespace assay::runner {

using nlohmann::json;
using registry::StateKind;

// A run that is recorded as starting.
struct Fleet::Begun {
  Attempt attempt;
  std::shared_ptr<Live> live;
};

void Fleet::start(const action::Start& decided) {
  const auto row = registry_.run(decided.number);
  if (!row) throw std::logic_error("run " + std::to_string(decided.number) + " is not in the registry");
  begun(record_start(decided, *row));
}

Fleet::Begun Fleet::record_start(const action::Start& decided, const registry::RunRow& row) {
  Begun begun{{row, decided.gpus}, nullptr};
  LaunchRecord launch{row.attempt + 1, decided.gpus, false};
  if (row.attempt > 0) {
    launch.resume = has_checkpoint(row.folder);
    set_aside(row.folder, row.attempt, !launch.resume);
    if (!launch.resume) registry_.forget_progress(row.number);
  }
  write_launch(row.folder, launch);
  begun.live = make_live(row);
  // Recorded first: after a crash right here the run is found starting, and started by the next daemon.
  record_state(decided.number, {StateKind::starting, {}, {}, ""}, unix_now());
  ++begun.attempt.row.attempt;
  begun.attempt.row.state.kind = StateKind::starting;
  return begun;
}

// Once that is committed.
void Fleet::begun(Begun begun) {
  const std::int64_t number = begun.attempt.row.number;
  moved(number, {StateKind::starting, {}, {}, ""});
  live_[number] = begun.live;
  support::fault_point("daemon: start recorded");
  decided_[&begun.live->executor].push_back(std::move(begun.attempt));
  schedule_ingest();
}

// In the transaction that records an end: what starts now, so that both take one wait for the disk. Only first attempts, for
// which nothing is moved. What it decides is in undone_ until the caller knows that the transaction is committed; what is
// not recorded here stays there for apply().
std::vector<Fleet::Begun> Fleet::record_next(const event::Ended& ended) {
  std::vector<Begun> all;
  const bool free = undone_.empty() && !applying_ && !drained_;
  for (Action& action : advance(queue_, ended, unix_now())) undone_.push_back(std::move(action));
  for (const Action& action : undone_) {
    const auto* begin = std::get_if<action::Start>(&action);
    const auto row = free && begin != nullptr && states_.count(begin->number) != 0 ? registry_.run(begin->number) : std::nullopt;
    if (!row || row->attempt > 0) break;
    Begun one;
    try {
      registry_.batch([&] { one = record_start(*begin, *row); });
    } catch (const std::exception&) {
      break;   // apply() tries it again, and says what is wrong
    }
    all.push_back(std::move(one));
  }
  return all;
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
  std::vector<Begun> next;
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
    next = record_next({number, state.kind == StateKind::succeeded});
  };
  try {
    registry_.batch(settle);   // what it wrote last, how it ended, and what starts in its place: one durable write
  } catch (...) {
    live->ingest.forget();     // rolled back: what is kept there must not run ahead of the registry
    if (!undone_.empty()) apply_later();   // the queue has been told, which it need not be again
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
  if (retry) {
    happened(event::Retry{number, *retry > 0 ? unix_now() + *retry : 0, row->held});
  } else {
    for (Begun& one : next) {
      undone_.pop_front();
      begun(std::move(one));
    }
    if (!applying_) apply();
    set_timers();
  }
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

}  // namespace assay::runner
