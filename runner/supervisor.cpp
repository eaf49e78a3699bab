#include "runner/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "runner/attempts.h"
#include "runner/console_tail.h"
#include "runner/process.h"
#include "runner/run_folder.h"
#include "runner/trainer_process.h"
#include "support/fault_point.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double kForever = std::numeric_limits<double>::infinity();
constexpr double kDefaultGrace = 10;   // SIGTERM to SIGKILL, when nobody said otherwise
constexpr double kConsoleEvery = 0.2;  // between two looks at a console that metrics are read from

// Says one line to whoever started us, and lets go of the descriptor.
class Reporter {
 public:
  explicit Reporter(int fd) : fd_(fd) {
    if (fd_) ::fcntl(fd_.get(), F_SETFD, FD_CLOEXEC);  // the trainer must not hold it open
  }
  void say(const std::string& line) {
    if (!fd_) return;
    const std::string text = line + "\n";
    [[maybe_unused]] const auto n = ::write(fd_.get(), text.data(), text.size());  // SIGPIPE is blocked: it may be gone
    fd_.reset();
  }

 private:
  Fd fd_;
};

// Seconds without a new metrics line. Measured on the monotonic clock; the file's own time is only used to date a
// change back to when it happened.
class Watchdog {
 public:
  Watchdog(fs::path file, double timeout) : file_(std::move(file)), timeout_(timeout), changed_(Clock::now()) {}
  // Seconds until it is time to look again; 0 or less: stalled.
  double remaining() {
    if (timeout_ <= 0) return kForever;
    struct stat status {};
    if (::stat(file_.c_str(), &status) == 0 && status.st_size != size_) {
      size_ = status.st_size;
      const double written = static_cast<double>(status.st_mtim.tv_sec) + status.st_mtim.tv_nsec * 1e-9;
      const double age = std::clamp(unix_now() - written, 0.0, Seconds(Clock::now() - changed_).count());
      changed_ = Clock::now() - std::chrono::duration_cast<Clock::duration>(Seconds(age));
    }
    return timeout_ - Seconds(Clock::now() - changed_).count();
  }
  // Time during which the trainer was stopped does not count.
  void forgive(Clock::duration paused) { changed_ += paused; }

 private:
  fs::path file_;
  double timeout_;
  off_t size_ = 0;
  Clock::time_point changed_;
};

// We are the subreaper: whatever of the run an init that was killed has left becomes our child in the end, and once there
// is no child left, nothing of the run is.
void end_orphans() {
  for (;;) {
    pid_t pid;
    while ((pid = ::waitpid(-1, nullptr, WNOHANG)) > 0) {
    }
    if (pid < 0 && errno == ECHILD) return;
    for (const Identity& identity : descendants()) signal_process(open_process(identity), SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

class Supervision {
 public:
  Supervision(fs::path folder, sigset_t signals, TrainerProcess& trainer)
      : folder_(std::move(folder)), signals_(signals), trainer_(trainer) {}

  // Everything between the trainer's start and the record of its end.
  ExitRecord watch(double time_limit, double stall_timeout, double started, ConsoleTail* console) {
    Clock::time_point begin = Clock::now();
    Watchdog watchdog(folder_ / "metrics.jsonl", stall_timeout);
    if (fs::exists(folder_ / "kill.json")) told_to_end();
    while (!init_ended()) {
      double wait = kForever;
      const bool paused = !ending() && fs::exists(folder_ / "pause.json");
      if (paused != paused_) {
        trainer_.signal_group(paused ? SIGSTOP : SIGCONT);
        if (paused) {
          paused_since_ = Clock::now();
        } else {
          begin += Clock::now() - paused_since_;
          watchdog.forgive(Clock::now() - paused_since_);
        }
        paused_ = paused;
      }
      if (console != nullptr && !paused_) look_at(*console, false);
      if (!ending() && !paused_ && !trainer_.ended()) {
        const double left = time_limit > 0 ? time_limit - Seconds(Clock::now() - begin).count() : kForever;
        const double quiet = watchdog.remaining();
        if (left <= 0) {
          begin_end("timed_out", "the time limit of " + text(time_limit) + " s", kDefaultGrace);
        } else if (quiet <= 0) {
          begin_end("stalled", "no new metrics line for " + text(stall_timeout) + " s", kDefaultGrace);
        } else {
          wait = std::min(left, quiet);
        }
      }
      if (ending()) {
        wait = Seconds(deadline_ - Clock::now()).count();
        if (wait <= 0) {
          trainer_.kill_everything();
          wait = 0.25;  // look again: one may have forked meanwhile
        }
      }
      wait_for_signal(console != nullptr && !paused_ ? std::min(wait, kConsoleEvery) : wait);
    }
    const auto end = trainer_.ended();
    end_orphans();
    if (console != nullptr) look_at(*console, true);

    ExitRecord record;
    record.started = started;
    record.ended = end ? end->when : unix_now();
    record.kind = !kind_.empty() ? kind_ : end && end->exited ? "exited" : "signalled";
    if (end && end->exited) record.code = end->status;
    else record.signal = end ? end->status : SIGKILL;  // without a word from the init: it was killed, and all below it
    record.by = by_;
    if (record.code != 0) record.last_error = last_line(folder_ / "stderr.log");
    if (!end && record.last_error.empty()) record.last_error = "the process above the trainer was killed";
    return record;
  }

 private:
  static std::string text(double seconds) {
    std::string digits = std::to_string(seconds);
    digits.erase(digits.find_last_not_of('0') + 1);
    if (digits.back() == '.') digits.pop_back();
    return digits;
  }

  bool ending() const { return !kind_.empty(); }

  bool init_ended() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(trainer_.init()), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
  }

  void begin_end(const std::string& kind, const std::string& by, double grace) {
    kind_ = kind;
    by_ = by;
    deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(grace));
    // What the trainer leaves has until our deadline, not the init's.
    trainer_.signal_group(SIGTERM, grace + 60);
    if (paused_) trainer_.signal_group(SIGCONT);   // a stopped process hears of SIGTERM only when it goes on
  }

  // A full disk is no reason to let go of the run: what could not be written comes with the next look.
  void look_at(ConsoleTail& console, bool last) {
    try {
      if (last) console.finish();
      else console.poll();
    } catch (const std::exception& error) {
      if (std::exchange(console_failed_, true)) return;
      std::fprintf(stderr, "%s: reading the console: %s\n", folder_.c_str(), error.what());  // into the daemon's log
    }
  }

  void told_to_end() {
    if (ending() || trainer_.ended()) return;
    KillRequest request{"a signal to its supervisor", kDefaultGrace};
    try {
      if (const auto written = read_kill(folder_)) request = *written;
    } catch (const std::exception&) {
      // Unreadable: somebody asked all the same.
    }
    begin_end("killed", request.by, std::clamp(request.grace, 0.0, 86400.0));
  }

  void wait_for_signal(double seconds) {
    // Capped, so that a clock or a file system that plays tricks costs a minute at worst.
    const double capped = std::clamp(std::isfinite(seconds) ? seconds : 60.0, 0.0, 60.0);
    timespec timeout{};
    timeout.tv_sec = static_cast<time_t>(capped);
    timeout.tv_nsec = static_cast<long>((capped - std::floor(capped)) * 1e9);
    const int signal = ::sigtimedwait(&signals_, nullptr, &timeout);
    if (signal == SIGTERM || signal == SIGINT) told_to_end();
  }

  fs::path folder_;
  sigset_t signals_;
  TrainerProcess& trainer_;
  std::string kind_, by_;   // set once the run is being ended
  Clock::time_point deadline_{};
  bool paused_ = false, console_failed_ = false;
  Clock::time_point paused_since_{};
};

// What the run executes may be another file now than when it was queued: its record says so.
void tell_changed_programs(const fs::path& folder, const std::vector<std::string>& changed) {
  for (const std::string& file : changed) {
    const nlohmann::json event = {{"time", unix_now()}, {"step", -1}, {"kind", "code_changed"},
                                  {"message", file + " was changed after the run was queued"}, {"data", {{"file", file}}}};
    support::LineWriter(folder / "events.jsonl").write(event.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

// The record is what the run amounts to: a full disk is waited out. A folder that is gone has no use for it.
void write_exit_record(const fs::path& folder, const ExitRecord& record) {
  for (;;) {
    try {
      write_exit(folder, record);
      return;
    } catch (const std::runtime_error&) {
      if (!fs::exists(folder / "lock")) throw;
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
}

std::optional<FileLock> take_lock(const fs::path& file) {
  // The daemon's look at the lock holds it for an instant; that must not pass for another supervisor.
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (auto lock = FileLock::try_take(file)) return lock;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return std::nullopt;
}

}  // namespace

int supervise(const fs::path& folder, int report) {
  Reporter reporter(report);
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&signals, signal);
  sigset_t blocked = signals;
  for (const int signal : {SIGPIPE, SIGHUP, SIGQUIT}) sigaddset(&blocked, signal);
  ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
  ::setsid();  // already so when the daemon started us
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::prctl(PR_SET_NAME, "assay-supervise");

  try {
    const auto lock = take_lock(folder / "lock");
    if (!lock || fs::exists(folder / "supervisor.json") || fs::exists(folder / "exit.json")) {
      reporter.say("busy");
      return 0;
    }
    support::fault_point("supervisor: has the lock");
    SupervisorRecord self;
    self.supervisor = identify(::getpid()).value();
    write_supervisor(folder, self);

    ExitRecord record;
    const double started = unix_now();
    bool launched = false;
    try {
      const Launch plan = plan_launch(folder);
      std::optional<ConsoleTail> console;
      if (plan.metrics != "jsonl") console.emplace(folder, plan.metrics, plan.metrics_regex);
      tell_changed_programs(folder, plan.changed);
      TrainerProcess trainer = TrainerProcess::start(plan);
      launched = true;
      support::fault_point("supervisor: trainer started");
      self.trainer = trainer.trainer();
      self.isolation = trainer.isolation();
      write_supervisor(folder, self);
      reporter.say("started");
      record = Supervision(folder, signals, trainer)
                   .watch(plan.time_limit, plan.stall_timeout, started, console ? &*console : nullptr);
    } catch (const std::exception& error) {
      if (launched) end_orphans();
      record.kind = launched ? "signalled" : "not_started";
      if (launched) record.signal = SIGKILL;
      record.last_error = error.what();
      record.started = started;
      record.ended = unix_now();
    }
    support::fault_point("supervisor: trainer ended");
    write_exit_record(folder, record);
    support::fault_point("supervisor: end recorded");
    reporter.say("ended");
    return 0;
  } catch (const std::exception& error) {
    reporter.say(std::string("error ") + error.what());
    return 1;
  }
}

}  // namespace assay::runner
