#include "runner/fleet.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "runner/ingest.h"
#include "runner/process.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::StateKind;

constexpr auto kIngestEvery = std::chrono::milliseconds(100);
constexpr int kStartTries = 2;   // supervisors that may vanish before they say a word

int threads_of(const json& config) { return config.at("train").at("threads").get<int>(); }

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

// A run with a supervisor, or about to have one.
struct Fleet::Live {
  Live(asio::io_context& io, registry::Registry& registry, std::int64_t run, fs::path where, std::int64_t steps)
      : number(run), folder(std::move(where)), watch(io), retry(io), ingest(registry, run, folder, steps) {}

  std::int64_t number;
  fs::path folder;
  bool command_trainer = false;
  int tries = 0;
  Fd pidfd;                                  // of the adopted supervisor
  asio::posix::stream_descriptor watch;      // the report pipe while it starts, then a copy of the pidfd
  asio::steady_timer retry;
  std::array<char, 1024> buffer{};
  std::string report;
  bool ended = false;
  Ingest ingest;
};

Fleet::Fleet(asio::io_context& io, registry::Registry& registry, Paths paths, int slots, int log_fd,
             std::shared_ptr<spdlog::logger> log, std::function<void(std::int64_t)> changed)
    : io_(io), registry_(registry), paths_(std::move(paths)), slots_(slots), log_fd_(log_fd), log_(std::move(log)),
      changed_(std::move(changed)), ingest_timer_(std::make_unique<Timer>(io)),
      apply_timer_(std::make_unique<Timer>(io)) {}

Fleet::~Fleet() = default;

std::map<std::int64_t, std::string> Fleet::waits() const { return runner::waits(queue_, slots_); }

std::shared_ptr<Fleet::Live> Fleet::make_live(const registry::RunRow& row) {
  const json config = json::parse(row.config_json);
  auto live = std::make_shared<Live>(io_, registry_, row.number, row.folder,
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
  const auto found = live_;
  happened(waiting);
  for (const auto& [number, live] : found) guarded(live, "taking it up", [&, live = live] { settle(live); });
  schedule_ingest();
}

std::vector<std::int64_t> Fleet::submit(const Submission& submission) {
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
  guarded(live, "starting it", [&] { spawn(*live); });
  schedule_ingest();
}

void Fleet::spawn(Live& live) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
  Fd read_end(ends[0]), write_end(ends[1]);
  ++live.tries;
  live.report.clear();
  start_detached({"supervise", live.folder.string(), "--report", "3"}, log_fd_, write_end.get());
  live.watch.assign(read_end.release());
  read_report(live_.at(live.number));
}

void Fleet::read_report(const std::shared_ptr<Live>& live) {
  live->watch.async_read_some(asio::buffer(live->buffer), [this, live](const asio::error_code& error, std::size_t n) {
    if (error == asio::error::operation_aborted || live->ended) return;
    live->report.append(live->buffer.data(), n);
    if (!error && live->report.find('\n') == std::string::npos && live->report.size() < 4096) return read_report(live);
    live->watch.close();
    guarded(live, "reading what its supervisor says", [&] {
      const std::string line = live->report.substr(0, live->report.find('\n'));
      if (line.rfind("error ", 0) != 0) return settle(live);
      registry::State failed{StateKind::failed, {}, {}, line.substr(6)};
      end(live, failed, unix_now());
    });
  });
}

void Fleet::settle_later(const std::shared_ptr<Live>& live, int milliseconds) {
  live->retry.expires_after(std::chrono::milliseconds(milliseconds));
  live->retry.async_wait([this, live](const asio::error_code& error) {
    if (!error && !live->ended) guarded(live, "looking after it", [&] { settle(live); });
  });
}

// Brings the registry into line with what the run's folder tells.
void Fleet::settle(const std::shared_ptr<Live>& live) {
  if (live->ended) return;
  switch (inspect(live->folder)) {
    case Condition::alive: return adopt(live);
    case Condition::coming_up: return settle_later(live, 50);
    case Condition::never_started:
      // The lock lets at most one supervisor run a folder, so starting another is safe even if the first only dawdles.
      if (live->tries < kStartTries) return spawn(*live);
      return end(live, {StateKind::failed, {}, {}, "its supervisor ended before it could start the trainer"}, unix_now());
    case Condition::lost: {
      const int leftovers = end_by_environment("ASSAY_RUN_DIR=" + live->folder.string());
      if (leftovers > 0) log_->warn("run {}: {} processes of it were left and are ended", live->number, leftovers);
      return end(live, {StateKind::lost, {}, {}, "its supervisor ended without a record"}, unix_now());
    }
    case Condition::ended: {
      std::optional<ExitRecord> record;
      try {
        record = read_exit(live->folder);
      } catch (const std::runtime_error& unreadable) {
        return end(live, {StateKind::lost, {}, {}, unreadable.what()}, unix_now());
      }
      if (!record) throw std::runtime_error((live->folder / "exit.json").string() + ": went away");
      live->ingest.finish();
      const bool finished = live->command_trainer ? live->ingest.any_metrics() : live->ingest.finished_event();
      return end(live, final_state(*record, finished, live->command_trainer), record->ended);
    }
  }
}

void Fleet::adopt(const std::shared_ptr<Live>& live) {
  const auto record = read_supervisor(live->folder);
  live->pidfd = record ? open_process(record->supervisor) : Fd();
  if (!live->pidfd) return settle_later(live, 10);  // it ended since we looked
  if (states_.at(live->number) == StateKind::starting) {
    move(live->number, {StateKind::running, {}, {}, ""}, unix_now());
    log_->info("run {} runs under supervisor {}", live->number, record->supervisor.pid);
  }
  if (fs::exists(live->folder / "kill.json")) signal_process(live->pidfd, SIGTERM);
  if (live->watch.is_open()) live->watch.close();
  live->watch.assign(::fcntl(live->pidfd.get(), F_DUPFD_CLOEXEC, 0));
  live->watch.async_wait(asio::posix::stream_descriptor::wait_read, [this, live](const asio::error_code& error) {
    if (error || live->ended) return;
    live->watch.close();
    guarded(live, "recording its end", [&] { settle(live); });
  });
}

void Fleet::end(const std::shared_ptr<Live>& live, registry::State state, double when) {
  live->ingest.finish();
  move(live->number, state, when);
  live->ended = true;
  live->retry.cancel();
  if (live->watch.is_open()) live->watch.close();
  live_.erase(live->number);
  log_->info("run {} {}{}{}", live->number, registry::name(state.kind), state.detail.empty() ? "" : ": ", state.detail);
  happened(event::Ended{live->number, state.kind == StateKind::succeeded});
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
    Live& live = *found->second;
    write_kill(live.folder, request);
    // While it is starting, adopt() or the supervisor itself sees the request.
    if (live.pidfd) signal_process(live.pidfd, SIGTERM);
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
      if (live->ended) continue;
      try {
        if (live->ingest.poll()) changed_(number);
      } catch (const std::exception& fault) {
        log_->error("run {}: reading its folder: {}", number, fault.what());  // tried again at the next turn
      }
    }
    schedule_ingest();
  });
}

// A fault in the care of one run (disk full, a file that is not JSON) must neither end the daemon nor the run's care.
void Fleet::guarded(const std::shared_ptr<Live>& live, const char* doing, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& fault) {
    log_->error("run {}: {}: {}", live->number, doing, fault.what());
    if (!live->ended) settle_later(live, 1000);
  }
}

}  // namespace assay::runner
