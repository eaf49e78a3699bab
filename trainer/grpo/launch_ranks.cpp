// A run of several ranks, seen from the process that was asked for it: mpirun in between, or srun in a Slurm job that has
// as many tasks, and its noise kept away.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/ranks.h"

namespace assay::train {
namespace {

pid_t child = 0;
volatile std::sig_atomic_t told_to_stop = 0;

// mpirun and srun answer SIGTERM by killing the ranks a second later; SIGUSR1 they pass on to them, who take it for SIGTERM.
extern "C" void pass_on(int) {
  told_to_stop = 1;
  if (child > 0) ::kill(child, SIGUSR1);
}

// What mpirun prints in a frame of dashes is meant for somebody who typed mpirun, and srun tells of each task that it ends
// after the first. Only who died first is of interest.
class Filter {
 public:
  void line(const std::string& text) {
    if (text.starts_with("srun: ") || text.starts_with("slurmstepd")) return said_by_slurm(text);
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
  int code = -1;  // with which the first ended by itself, where srun says so

 private:
  // "srun: error: NODE: task 1: Killed", "srun: error: NODE: tasks 0-1: Exited with exit code 3"
  void said_by_slurm(const std::string& text) {
    frame_ += text + "\n";
    const auto at = text.find(": task");
    if (!text.starts_with("srun: error: ") || at == std::string::npos || rank >= 0 || code >= 0) return;
    const auto number = text.find_first_of("0123456789", at);
    const auto how = text.find(": ", at + 2);
    if (number == std::string::npos || how == std::string::npos) return;
    constexpr std::string_view exited = ": Exited with exit code ";
    if (text.compare(how, exited.size(), exited) == 0) code = std::atoi(text.c_str() + how + exited.size());
    else rank = std::atoi(text.c_str() + number);
  }

  bool framed_ = false;
  std::string frame_;
};

// In a Slurm job of that many tasks srun puts each where Slurm has room for it. Otherwise all are here.
std::vector<std::string> launcher(const std::string& count) {
  const char* tasks = std::getenv("SLURM_NTASKS");
  if (std::getenv("SLURM_JOB_ID") && tasks && tasks == count) {
    std::vector<std::string> words{"srun", "--ntasks=" + count, "--mpi=pmix", "--kill-on-bad-exit=1", "--cpu-bind=none"};
    // srun does not take it over from the job.
    if (const char* cores = std::getenv("SLURM_CPUS_PER_TASK")) words.push_back(std::string("--cpus-per-task=") + cores);
    return words;
  }
  // Neither bound to cores nor held to their number: train.threads and the scheduler see to that.
  std::vector<std::string> words{"mpirun", "-n", count, "--bind-to", "none", "--oversubscribe"};
  if (::geteuid() == 0) words.emplace_back("--allow-run-as-root");
  return words;
}

}  // namespace

int launch_ranks(std::int64_t ranks) {
  const std::string count = std::to_string(ranks);
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  std::vector<std::string> words = launcher(count);
  const std::string program = words.front();
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
    ::execvp(pointers[0], pointers.data());
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
    throw BadInput("train.ranks = " + count + ": " + program + " cannot be started (" + std::strerror(error) +
                   "); install " + (program == "srun" ? "slurm-client" : "openmpi-bin") + ", or set train.ranks = 1");
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
  if (filter.code >= 0 && filter.code <= exit_findings) return filter.code;   // srun's own is the highest, of those it ended too
  if (code <= exit_findings) return code;
  std::fprintf(stderr, "%sassay-train: %s ended with code %d\n", filter.frame().c_str(), program.c_str(), code);
  return exit_fault;
}

}  // namespace assay::train
