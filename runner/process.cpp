#include "runner/process.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "runner/supervisor_program.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;

struct Stat {
  char state = '?';
  pid_t parent = 0;
  std::uint64_t start_time = 0;
};

std::optional<Stat> read_stat(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  // The second field is the program's name in parentheses and may hold anything, parentheses too.
  const auto close = line.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  std::istringstream rest(line.substr(close + 1));
  Stat stat;
  rest >> stat.state >> stat.parent;
  std::string skipped;
  for (int field = 5; field < 22; ++field) rest >> skipped;
  rest >> stat.start_time;
  if (!rest) return std::nullopt;
  return stat;
}

bool is_dead(char state) { return state == 'Z' || state == 'X' || state == 'x'; }

std::vector<pid_t> all_processes() {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad == std::errc() && end == name.data() + name.size()) pids.push_back(pid);
  }
  return pids;
}

Fd pidfd_open(pid_t pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::string boot_id() {
  static const std::string id = [] {   // no process sees two
    std::string text = support::read_file("/proc/sys/kernel/random/boot_id");
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
    return text;
  }();
  return id;
}

std::optional<Identity> identify(pid_t pid) {
  const auto stat = read_stat(pid);
  if (!stat || is_dead(stat->state)) return std::nullopt;
  return Identity{boot_id(), pid, stat->start_time};
}

Fd open_process(const Identity& identity) {
  if (identity.pid <= 0 || identity.boot_id != boot_id()) return Fd();
  // First the descriptor, then the check: a number reused before the open shows another start time, and one reused
  // after it no longer matters.
  Fd pidfd = pidfd_open(identity.pid);
  if (!pidfd || identify(identity.pid) != identity) return Fd();
  return pidfd;
}

bool signal_process(const Fd& pidfd, int signal) {
  return pidfd && ::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) == 0;
}

std::optional<FileLock> FileLock::try_take(const fs::path& file) {
  Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) throw std::runtime_error(file.string() + ": " + std::strerror(errno));
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return std::nullopt;
    if (errno != EINTR) throw std::runtime_error(file.string() + ": " + std::strerror(errno));
  }
  return FileLock(std::move(fd));
}

bool FileLock::is_held(const fs::path& file) {
  Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return false;
  return ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

void start_detached(const std::vector<std::string>& arguments, int log, int report) {
  start_program_detached(-1, arguments, log, report);
}

void start_program_detached(int program_fd, const std::vector<std::string>& arguments, int log, int report) {
  std::vector<char*> argv;
  std::string name = "assay";
  argv.push_back(name.data());
  std::vector<std::string> copy = arguments;
  for (std::string& argument : copy) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (std::string_view(*entry).substr(0, 14) != "ASSAY_RUN_DIR=") envp.push_back(*entry);
  envp.push_back(nullptr);

  // A daemon is assay-cli, also when assay-web starts it; else this very program, even when its file has been replaced.
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = self.filename() == "assay-web" ? (self.parent_path() / "assay-cli").string() : "/proc/self/exe";

  // Until they execute or end, both have our memory instead of a copy each, and we wait.
  const pid_t middle = ::vfork();
  if (middle < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
  if (middle == 0) {
    // Only async-signal-safe calls from here on.
    ::setsid();
    const pid_t child = ::vfork();
    if (child != 0) ::_exit(child < 0 ? 1 : 0);
    const int null = ::open("/dev/null", O_RDWR);
    // Out of the way of 0 to 3 before those are replaced.
    const int log_copy = ::fcntl(log >= 0 ? log : null, F_DUPFD, 10);
    const int report_copy = ::fcntl(report, F_DUPFD, 10);
    ::dup2(null, 0);
    ::dup2(null, 1);
    ::dup2(log_copy, 2);
    ::dup2(report_copy, 3);
    if (program_fd >= 0) {
      ::dup2(program_fd, 4);
      ::fcntl(4, F_SETFD, FD_CLOEXEC);
    }
    ::syscall(SYS_close_range, program_fd >= 0 ? 5U : 4U, ~0U, 0U);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    for (int signal = 1; signal < 32; ++signal) ::signal(signal, SIG_DFL);
    if (program_fd >= 0) ::syscall(SYS_execveat, 4, "", argv.data(), envp.data(), AT_EMPTY_PATH);
    else ::execve(program.c_str(), argv.data(), envp.data());
    const char sentence[] = "error the program file cannot be executed\n";
    [[maybe_unused]] const auto n = ::write(3, sentence, sizeof sentence - 1);
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(middle, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw std::runtime_error("fork: no process to be had");
}

std::vector<Identity> descendants() {
  std::multimap<pid_t, Identity> children;
  const std::string boot = boot_id();
  for (const pid_t pid : all_processes())
    if (const auto stat = read_stat(pid); stat && !is_dead(stat->state))
      children.emplace(stat->parent, Identity{boot, pid, stat->start_time});
  std::vector<Identity> found;
  std::vector<pid_t> open{::getpid()};
  while (!open.empty()) {
    const pid_t parent = open.back();
    open.pop_back();
    const auto [first, last] = children.equal_range(parent);
    for (auto it = first; it != last; ++it) {
      found.push_back(it->second);
      open.push_back(it->second.pid);
    }
  }
  return found;
}

int end_by_environment(const std::string& entry) {
  const std::string needle = '\0' + entry + '\0';
  int ended = 0;
  // Until a look finds none: one may fork between the look and the signal.
  for (int look = 0; look < 50; ++look) {
    int found = 0;
    for (const pid_t pid : all_processes()) {
      if (pid == ::getpid()) continue;
      const Fd pidfd = pidfd_open(pid);
      if (!pidfd) continue;
      std::ifstream in("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
      std::ostringstream text;
      if (!in || !(text << in.rdbuf())) continue;
      if (('\0' + std::move(text).str()).find(needle) == std::string::npos) continue;
      if (const auto stat = read_stat(pid); !stat || is_dead(stat->state)) continue;
      if (signal_process(pidfd, SIGKILL)) ++found;
    }
    if (found == 0) break;
    ended = std::max(ended, found);
    ::usleep(10'000);
  }
  return ended;
}

double unix_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

std::string iso_time(double unix_seconds) {
  // By the calendar: gmtime_r() and strftime() read the file of the time zone first.
  using namespace std::chrono;
  const sys_seconds time{seconds(static_cast<std::int64_t>(unix_seconds))};
  const auto day = floor<days>(time);
  const year_month_day date(day);
  const hh_mm_ss clock(time - day);
  char text[48];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02dZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), static_cast<int>(clock.hours().count()),
                static_cast<int>(clock.minutes().count()), static_cast<int>(clock.seconds().count()));
  return text;
}

}  // namespace assay::runner
