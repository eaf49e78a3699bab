#include "runner/init.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "runner/process.h"

namespace assay::runner::init {
namespace {

constexpr int kDefaultGraceMs = 2000;

double now_monotonic() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

[[noreturn]] void fail(int pipe, Stage stage, const char* what = "") {
  Failure failure{stage, errno, {}};
  std::snprintf(failure.what, sizeof failure.what, "%s", what);
  [[maybe_unused]] const auto n = ::write(pipe, &failure, sizeof failure);
  ::_exit(127);
}

bool put(const char* file, const char* text) {
  const int fd = ::open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = ::write(fd, text, std::strlen(text)) == static_cast<ssize_t>(std::strlen(text));
  const int error = errno;
  ::close(fd);
  errno = error;
  return ok;
}

// The new namespaces become usable: ids as outside, a /proc that shows the namespace's own processes.
void enter(const Setup& setup) {
  char text[64] = {};
  // Before the new /proc hides it: our number outside, unique among all that live.
  const ssize_t n = ::readlink("/proc/self", text, sizeof text - 1);
  if (n <= 0) fail(setup.failures, Stage::isolation, "readlink /proc/self");
  const std::uint64_t outside = std::strtoull(text, nullptr, 10);
  if (setup.user_namespace) {
    // Without this an unprivileged process may not map its group. Supplementary groups stay in force.
    if (!put("/proc/self/setgroups", "deny")) fail(setup.failures, Stage::isolation, "/proc/self/setgroups");
    std::snprintf(text, sizeof text, "%u %u 1\n", setup.uid, setup.uid);
    if (!put("/proc/self/uid_map", text)) fail(setup.failures, Stage::isolation, "/proc/self/uid_map");
    std::snprintf(text, sizeof text, "%u %u 1\n", setup.gid, setup.gid);
    if (!put("/proc/self/gid_map", text)) fail(setup.failures, Stage::isolation, "/proc/self/gid_map");
  }
  // What is mounted outside later shows here too; nothing of ours shows outside.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    fail(setup.failures, Stage::isolation, "mount --make-rslave /");
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    fail(setup.failures, Stage::isolation, "mount /proc");
  // Every namespace counts from 1, so two runs would have the same process numbers, and with them the same "unique"
  // names under /tmp and /dev/shm. Each begins elsewhere instead.
  long limit = 32768;
  if (const int fd = ::open("/proc/sys/kernel/pid_max", O_RDONLY | O_CLOEXEC); fd >= 0) {
    char digits[32] = {};
    if (::read(fd, digits, sizeof digits - 1) > 0) limit = std::strtol(digits, nullptr, 10);
    ::close(fd);
  }
  const std::uint64_t room = static_cast<std::uint64_t>(std::max(limit, 2000L) - 1000);
  std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(300 + outside * 2654435761ULL % room));
  if (!put("/proc/sys/kernel/ns_last_pid", text)) fail(setup.failures, Stage::isolation, "ns_last_pid");
}

[[noreturn]] void become_trainer(const Setup& setup, pid_t init) {
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != init) ::_exit(127);  // it died before that took effect
  // The kernel adds our process number, in the reader's own counting.
  const char hello = 'T';
  if (::send(setup.channel, &hello, 1, MSG_NOSIGNAL) != 1) ::_exit(127);
  ::dup2(setup.in, 0);
  ::dup2(setup.out, 1);
  ::dup2(setup.err, 2);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal = 1; signal < 32; ++signal) ::signal(signal, SIG_DFL);
  if (::chdir(setup.work_folder) != 0) fail(setup.failures, Stage::chdir);
  ::execvpe(setup.argv[0], setup.argv, setup.envp);
  fail(setup.failures, Stage::exec);
}

class Init {
 public:
  Init(const Setup& setup, pid_t trainer, int signals)
      : isolated_(setup.isolated), channel_(setup.channel), signals_(signals), trainer_(trainer) {}

  [[noreturn]] void run() {
    for (;;) {
      reap();
      if (ended_ && !any_child_) ::_exit(0);
      int wait = -1;
      if (ended_) {
        const double left = deadline_ - now_monotonic();
        if (left <= 0) {
          if (isolated_) ::_exit(0);  // the kernel ends the rest
          signal_rest(SIGKILL);
        }
        wait = left <= 0 ? 50 : static_cast<int>(std::min(left * 1000 + 1, 250.0));
        if (left > 0 && !terminated_) signal_rest(SIGTERM);
        terminated_ = true;
      }
      pollfd ready[2] = {{signals_, POLLIN, 0}, {channel_, POLLIN, 0}};
      ::poll(ready, 2, wait);
      if (ready[0].revents != 0) {
        signalfd_siginfo info[8];
        [[maybe_unused]] const auto n = ::read(signals_, info, sizeof info);
      }
      if (ready[1].revents != 0) read_command();
    }
  }

 private:
  // All but the trainer at once; the trainer's zombie only after it was told of, so that until then its number, and its
  // process group's, is its own.
  void reap() {
    any_child_ = true;
    for (;;) {
      siginfo_t info{};
      if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
        if (errno == EINTR) continue;
        any_child_ = false;
        return;
      }
      if (info.si_pid == 0) return;
      if (info.si_pid == trainer_) {
        ended_ = true;
        deadline_ = now_monotonic() + grace_ms_ * 1e-3;
        timespec now{};
        ::clock_gettime(CLOCK_REALTIME, &now);
        const Ended message{info.si_code == CLD_EXITED, info.si_status,
                            static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9};
        ::send(channel_, &message, sizeof message, MSG_NOSIGNAL);
        trainer_ = 0;
      }
      ::waitpid(info.si_pid, nullptr, 0);
    }
  }

  void read_command() {
    Command command{};
    const ssize_t n = ::recv(channel_, &command, sizeof command, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n != sizeof command) {
      // The supervisor is gone: nothing of the run may go on without it.
      if (isolated_) ::_exit(1);
      for (;;) {
        signal_rest(SIGKILL);
        while (::waitpid(-1, nullptr, WNOHANG) > 0) {
        }
        if (::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD) ::_exit(1);
        ::usleep(10'000);
      }
    }
    if (command.grace_ms >= 0) {
      grace_ms_ = command.grace_ms;
      if (ended_) deadline_ = now_monotonic() + grace_ms_ * 1e-3;
    }
    if (command.signal != 0 && trainer_ != 0) ::kill(-trainer_, command.signal);
  }

  void signal_rest(int signal) {
    if (isolated_) {
      ::kill(-1, signal);  // all of the namespace but us
      return;
    }
    for (const Identity& identity : descendants()) signal_process(open_process(identity), signal);
  }

  bool isolated_;
  int channel_, signals_;
  pid_t trainer_;
  bool ended_ = false, terminated_ = false, any_child_ = true;
  int grace_ms_ = kDefaultGraceMs;
  double deadline_ = 0;
};

}  // namespace

void run(const Setup& setup) {
  // The run's lock and the supervisor's end of the channel must not live on in here.
  int kept[] = {setup.channel, setup.failures, setup.in, setup.out, setup.err};
  std::sort(std::begin(kept), std::end(kept));
  unsigned first = 3;
  for (const int fd : kept) {
    if (static_cast<unsigned>(fd) > first) ::syscall(SYS_close_range, first, static_cast<unsigned>(fd) - 1, 0U);
    first = std::max(first, static_cast<unsigned>(fd) + 1);
  }
  ::syscall(SYS_close_range, first, ~0U, 0U);
  ::prctl(PR_SET_NAME, "assay-init");
  if (setup.isolated) {
    enter(setup);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // after the ids are mapped, which would clear it
  } else {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  // Only a kill ends it. A supervisor that died before that took effect shows as the channel's end.
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  const int signals = ::signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  const pid_t self = ::getpid();
  // Until it executes the trainer, the child has our memory instead of a copy, which took longer than all else here.
  const pid_t trainer = signals < 0 ? -1 : ::vfork();
  if (trainer < 0) fail(setup.failures, Stage::exec);
  if (trainer == 0) become_trainer(setup, self);
  ::close(setup.failures);
  ::close(setup.in);
  ::close(setup.out);
  ::close(setup.err);
  Init(setup, trainer, signals).run();
}

}  // namespace assay::runner::init
