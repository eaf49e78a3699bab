#include "runner/executors/local.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "runner/process.h"
#include "runner/supervisor_program.h"

namespace assay::runner {

namespace fs = std::filesystem;
using registry::StateKind;

namespace {

constexpr int kStartTries = 2;   // supervisors that may vanish before they say a word

}  // namespace

// An attempt with a supervisor, or about to have one.
struct LocalExecutor::Live {
  Live(asio::io_context& io, std::int64_t run, fs::path where)
      : number(run), folder(std::move(where)), watch(io), retry(io) {}

  std::int64_t number;
  fs::path folder;
  std::vector<int> gpus;
  int tries = 0;
  Fd pidfd;                                  // of the supervisor, once it is known to live
  pid_t pid = 0;
  asio::posix::stream_descriptor watch;      // the report pipe while it starts, then a copy of the pidfd
  asio::steady_timer retry;
  std::array<char, 1024> buffer{};
  std::string report;
  bool ended = false;
};

LocalExecutor::LocalExecutor(const ExecutorContext& context) : context_(context) {}

LocalExecutor::~LocalExecutor() = default;

std::string LocalExecutor::refusal(const nlohmann::json&) const { return ""; }

LocalExecutor::LivePtr LocalExecutor::add(const Attempt& attempt) {
  const auto live = std::make_shared<Live>(context_.io, attempt.row.number, attempt.row.folder);
  live->gpus = attempt.gpus;
  live_[live->number] = live;
  return live;
}

void LocalExecutor::start(const std::vector<Attempt>& attempts) {
  for (const Attempt& attempt : attempts) {
    const LivePtr live = add(attempt);
    guarded(live, "starting it", [&] { spawn(live); });
  }
}

void LocalExecutor::adopt(const Attempt& attempt) {
  const LivePtr live = add(attempt);
  guarded(live, "taking it up", [&] { settle(live); });
}

void LocalExecutor::spawn(const LivePtr& live) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
  Fd read_end(ends[0]), write_end(ends[1]);
  ++live->tries;
  live->report.clear();
  start_supervisor(live->folder, context_.log_fd, write_end.get());
  live->watch.assign(read_end.release());
  read_report(live);
}

void LocalExecutor::read_report(const LivePtr& live) {
  live->watch.async_read_some(asio::buffer(live->buffer), [this, live](const asio::error_code& error, std::size_t n) {
    if (error == asio::error::operation_aborted || live->ended) return;
    live->report.append(live->buffer.data(), n);
    if (!error && live->report.find('\n') == std::string::npos && live->report.size() < 4096) return read_report(live);
    live->watch.close();
    guarded(live, "reading what its supervisor says", [&] {
      const std::string line = live->report.substr(0, live->report.find('\n'));
      if (line.rfind("error ", 0) != 0) return settle(live);
      over(live, registry::State{StateKind::failed, {}, {}, line.substr(6)}, unix_now());
    });
  });
}

void LocalExecutor::settle_later(const LivePtr& live, int milliseconds) {
  live->retry.expires_after(std::chrono::milliseconds(milliseconds));
  live->retry.async_wait([this, live](const asio::error_code& error) {
    if (!error && !live->ended) guarded(live, "looking after it", [&] { settle(live); });
  });
}

// Brings the daemon into line with what the run's folder tells.
void LocalExecutor::settle(const LivePtr& live) {
  if (live->ended) return;
  switch (inspect(live->folder)) {
    case Condition::alive: return watch(live);
    case Condition::coming_up: return settle_later(live, 50);
    case Condition::never_started:
      // The lock lets at most one supervisor run a folder, so starting another is safe even if the first only dawdles.
      if (live->tries < kStartTries) return spawn(live);
      return over(live, registry::State{StateKind::failed, {}, {}, "its supervisor ended before it could start the trainer"},
                  unix_now());
    case Condition::lost: {
      const int leftovers = end_by_environment("ASSAY_RUN_DIR=" + live->folder.string());
      if (leftovers > 0)
        context_.log->warn("run {}: {} processes of it were left and are ended", live->number, leftovers);
      return over(live, registry::State{StateKind::lost, {}, {}, lost_reason(live->folder)}, unix_now());
    }
    case Condition::ended: {
      std::optional<ExitRecord> record;
      try {
        record = read_exit(live->folder);
      } catch (const std::runtime_error& unreadable) {
        return over(live, registry::State{StateKind::lost, {}, {}, unreadable.what()}, unix_now());
      }
      if (!record) throw std::runtime_error((live->folder / "exit.json").string() + ": went away");
      return over(live, *record, record->ended);
    }
  }
}

void LocalExecutor::watch(const LivePtr& live) {
  const auto record = read_supervisor(live->folder);
  live->pidfd = record ? open_process(record->supervisor) : Fd();
  if (!live->pidfd) return settle_later(live, 10);  // it ended since we looked
  live->pid = record->supervisor.pid;
  context_.listener.running(live->number);
  if (fs::exists(live->folder / "kill.json")) signal_process(live->pidfd, SIGTERM);
  if (live->watch.is_open()) live->watch.close();
  live->watch.assign(::fcntl(live->pidfd.get(), F_DUPFD_CLOEXEC, 0));
  live->watch.async_wait(asio::posix::stream_descriptor::wait_read, [this, live](const asio::error_code& error) {
    if (error || live->ended) return;
    live->watch.close();
    guarded(live, "recording its end", [&] { settle(live); });
  });
}

void LocalExecutor::over(const LivePtr& live, const Ending& ending, double when) {
  if (!context_.listener.ended(live->number, ending, when)) {
    asio::post(context_.io, [this, live, ending, when] {
      if (!live->ended) guarded(live, "recording its end", [&] { over(live, ending, when); });
    });
    return;
  }
  live->ended = true;
  live->retry.cancel();
  if (live->watch.is_open()) live->watch.close();
  // The next attempt may be here already, started by what ended() decided.
  if (const auto found = live_.find(live->number); found != live_.end() && found->second == live) live_.erase(found);
}

void LocalExecutor::end(std::int64_t number, const KillRequest&) {
  const auto found = live_.find(number);
  // While it is starting, watch() or the supervisor itself sees the request in kill.json.
  if (found != live_.end() && found->second->pidfd) signal_process(found->second->pidfd, SIGTERM);
}

bool LocalExecutor::pause(std::int64_t number, bool) {
  const auto found = live_.find(number);
  if (found == live_.end()) return false;
  // pause.json says what is wanted, and the supervisor looks for it whenever it wakes; SIGCHLD wakes it, and does nothing
  // to one of an older version.
  if (found->second->pidfd) signal_process(found->second->pidfd, SIGCHLD);
  return true;
}

std::string LocalExecutor::where(std::int64_t number) const {
  const auto found = live_.find(number);
  if (found == live_.end() || found->second->pid == 0) return "";
  return "supervisor " + std::to_string(found->second->pid);
}

// A fault in the care of one run (disk full, a file that is not JSON) must neither end the daemon nor the run's care.
void LocalExecutor::guarded(const LivePtr& live, const char* doing, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& fault) {
    context_.log->error("run {}: {}: {}", live->number, doing, fault.what());
    if (!live->ended) settle_later(live, 1000);
  }
}

}  // namespace assay::runner
