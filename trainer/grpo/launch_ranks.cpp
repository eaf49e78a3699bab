// A run of several ranks, seen from the process that was asked for it: mpirun in between, and its noise kept away.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/ranks.h"

namespace assay::train {
namespace {

pid_t child = 0;
volatile std::sig_atomic_t told_to_stop = 0;

// mpirun answers SIGTERM by killing the ranks a second later; SIGUSR1 it passes on to them, and they take it for SIGTERM.
extern "C" void pass_on(int) {
  told_to_stop = 1;
  if (child > 0) ::kill(child, SIGUSR1);
}

// What mpirun prints in a frame of dashes is meant for somebody who typed mpirun. Only who died is of interest.
class Filter {
 public:
  void line(const std::string& text) {
    if (text.size() > 60 && text.find_first_not_of('-') == std::string::npos) {
      framed_ = !framed_;
      return;
    }
    if (!framed_) {
      if (text.starts_with("mpirun: Forwarding signal")) return;
      std::fprintf(stderr, "%s\n", text.c_str());
      return;
    }
    const auto at = text.find("process rank ");
    if (at != std::string::npos && rank < 0) rank = std::atoi(text.c_str() + at + 13);
    frame_ += text + "\n";
  }
  // For an end that nobody else explains.
  const std::string& frame() const { return frame_; }
  int rank = -1;  // of the one that was ended by a signal

 private:
  bool framed_ = false;
  std::string frame_;
};

}  // namespace

int launch_ranks(std::int64_t ranks) {
  const std::string count = std::to_string(ranks);
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  // Neither bound to cores nor held to their number: train.threads and the scheduler see to that.
  std::vector<std::string> words{"mpirun", "-n", count, "--bind-to", "none", "--oversubscribe"};
  if (::geteuid() == 0) words.emplace_back("--allow-run-as-root");
  words.push_back(self);
  const std::string arguments = support::read_file("/proc/self/cmdline");  // each with a NUL behind it; the first is us
  for (std::size_t at = arguments.find('\0') + 1; at < arguments.size(); at = arguments.find('\0', at) + 1)
    words.emplace_back(arguments.c_str() + at);
  std::vector<char*> pointers;
  for (auto& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  int ends[2], started[2];
  if (::pipe2(ends, O_CLOEXEC) != 0 || ::pipe2(started, O_CLOEXEC) != 0)
    throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
  struct sigaction action {};
  action.sa_handler = pass_on;
  action.sa_flags = SA_RESTART;
  sigset_t both, before;
  sigemptyset(&both);
  sigaddset(&both, SIGTERM);
  sigaddset(&both, SIGINT);
  ::sigprocmask(SIG_BLOCK, &both, &before);  // until there is somebody to pass it on to
  const pid_t parent = ::getpid();
  child = ::fork();
  if (child < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
  if (child == 0) {
    ::setpgid(0, 0);  // a signal to our group is passed on by us, once
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(exit_fault);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    ::dup2(ends[1], 2);
    ::execvp("mpirun", pointers.data());
    const int error = errno;
    [[maybe_unused]] const auto n = ::write(started[1], &error, sizeof error);
    ::_exit(exit_fault);
  }
  ::close(ends[1]);
  ::close(started[1]);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);

  int error = 0;
  if (::read(started[0], &error, sizeof error) == sizeof error) {
    ::waitpid(child, nullptr, 0);
    throw BadInput("train.ranks = " + count + ": mpirun cannot be started (" + std::strerror(error) +
                   "); install openmpi-bin, or set train.ranks = 1");
  }
  Filter filter;
  std::string line;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR);)
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[i] != '\n') {
        line += buffer[i];
        continue;
      }
      filter.line(line);
      line.clear();
    }
  if (!line.empty()) filter.line(line);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  child = 0;
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  // So early that a rank had not said yet what the signal means to it: nothing had begun.
  if (told_to_stop != 0 && code == 128 + SIGUSR1) return exit_terminated;
  if (filter.rank >= 0) {
    const std::string how = code > 128 ? std::string(" (") + ::strsignal(code - 128) + ")" : "";
    std::fprintf(stderr, "assay-train: rank %d of %s was ended by a signal%s, and the run with it; `assay-train run --resume` goes "
                 "on from the newest checkpoint\n", filter.rank, count.c_str(), how.c_str());
    return exit_fault;
  }
  if (code <= exit_findings) return code;
  std::fprintf(stderr, "%sassay-train: mpirun ended with code %d\n", filter.frame().c_str(), code);
  return exit_fault;
}

}  // namespace assay::train
