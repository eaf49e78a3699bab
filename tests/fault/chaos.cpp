// Chaos: daemon, supervisors, trainers and clients of a real assay are killed at random instants, also inside every
// commit point (hook.cpp), its disk fills up and turns read-only; then the next daemon settles, and the contract is
// looked after: no run lost, none started twice, none running unowned, no flushed metric missing, the database intact.
//
//   assay_chaos --seed 1 --rounds 50 --folder DIR      exit code 0: all held; a summary on stdout
//   assay_chaos trainer OUTSIDE KIND                   the trainer of its runs
//
// It runs in PID and mount namespaces of its own where that is allowed, with assay's data on a small tmpfs, so that
// nothing is left whatever happens; elsewhere without the phases of the disk, which it says.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "registry/registry.h"
#include "runner/daemon.h"
#include "runner/process.h"
#include "runner/run_folder.h"
#include "support/files.h"

using namespace assay;
namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::milliseconds;

namespace {

// ---- the trainer ---------------------------------------------------------------------------------------------------

void note(const std::string& file, const std::string& line) {
  const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  const std::string text = line + "\n";
  if (fd < 0 || ::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) ::_exit(70);
  ::close(fd);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Each line that its write(2) has taken is noted outside of assay's disk: it must not get lost any more.
int trainer(const std::string& outside, const std::string& kind) {
  const std::string number = environment("ASSAY_RUN_NUMBER");
  const std::string attempt = std::getenv("ASSAY_ATTEMPT") ? environment("ASSAY_ATTEMPT") : "1";
  note(outside + "/started-" + number, attempt);
  if (kind == "stray" && ::fork() == 0) {
    ::setsid();  // out of the trainer's group and session
    if (::fork() == 0) {
      for (;;) ::pause();
    }
    ::_exit(0);
  }
  const int steps = kind == "slow" ? 40 : 4;
  try {
    support::LineWriter metrics(environment("ASSAY_RUN_DIR") + "/metrics.jsonl");
    for (int step = 1; step <= steps; ++step) {
      for (;;) {
        try {
          metrics.write("{\"step\":" + std::to_string(step) + ",\"time\":1,\"metrics\":{\"m\":" +
                        std::to_string(step * 7) + ",\"critic/score/mean\":0.5}}");
          break;
        } catch (const std::runtime_error&) {
          std::this_thread::sleep_for(milliseconds(20));  // the disk is full: patience
        }
      }
      note(outside + "/flushed-" + number, std::to_string(step));
      std::this_thread::sleep_for(milliseconds(kind == "slow" ? 12 : 2));
    }
  } catch (const std::runtime_error&) {
    return 1;
  }
  if (kind == "fails") return 3;
  note(outside + "/finished-" + number, attempt);
  return 0;
}

// ---- the chaos -----------------------------------------------------------------------------------------------------

const std::vector<std::string> kKinds = {"quick", "slow", "stray", "fails"};

struct Options {
  std::uint64_t seed = 1;
  int rounds = 50;
  fs::path folder;
};

class Chaos {
 public:
  Chaos(const Options& options, bool disk) : options_(options), disk_(disk), random_(options.seed) {
    outside_ = options.folder / "outside";
    faults_ = options.folder / "faults";
    home_ = options.folder / "disk" / "home";
    // The series lies on the disk too: outside of the repository that the build folder is in, as far as git is concerned.
    const fs::path series_folder = options.folder / "disk" / "series";
    for (const fs::path& folder : {outside_, faults_, series_folder, home_}) fs::create_directories(folder);
    fs::current_path(series_folder);
    const fs::path self = fs::read_symlink("/proc/self/exe");
    program_ = (self.parent_path() / "assay_faults_front").string();
    ::setenv("ASSAY_HOME", home_.c_str(), 1);
    ::setenv("ASSAY_SLOTS", "4", 1);
    ::setenv("ASSAY_DISK_RESERVE", "0", 1);  // the disk is small, and is to fill up
    ::setenv("ASSAY_EXPERIMENTS", series_folder.c_str(), 1);
    ::setenv("ASSAY_FAULTS", faults_.c_str(), 1);
    std::ofstream series(series_folder / "chaos.toml");
    series << "[series]\nid = \"chaos\"\n[base.trainer]\nkind = \"command\"\nargv = [\"true\"]\n";
    for (const std::string& kind : kKinds)
      series << "[[run]]\nid = \"" << kind << "\"\nbaseline = \"\"\nchange = { \"trainer.argv\" = [\"" << self.string()
             << "\", \"trainer\", \"" << outside_.string() << "\", \"" << kind << "\"] }\n";
  }

  void run() {
    for (round_ = 1; round_ <= options_.rounds; ++round_) {
      one_round();
      settle();
      check();
      if (disk_ && round_ % 10 == 0) read_only();
      if (round_ % 10 == 0 || round_ == options_.rounds) {
        std::printf("round %d: %s\n", round_, summary().c_str());
        std::fflush(stdout);
      }
    }
    std::printf("places where a process killed itself:\n");
    for (const auto& [point, count] : hits()) std::printf("  %6d  %s\n", count, point.c_str());
  }

  std::string summary() const {
    std::string text;
    for (const auto& [what, count] : counts_) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + what;
    return text;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("seed " + std::to_string(options_.seed) + ", round " + std::to_string(round_) + ": " + what);
  }
  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  void nap(int longest_ms) { std::this_thread::sleep_for(std::chrono::microseconds(random_() % (1000U * longest_ms + 1))); }

  struct Command {
    pid_t pid = 0;
    std::string name;
  };
  struct Result {
    int code = -1;
    std::string out, err;
  };
  Command start(const std::vector<std::string>& arguments) {
    Command command{0, "command-" + std::to_string(commands_++ % 64)};
    std::vector<std::string> words{program_};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    command.pid = ::fork();
    if (command.pid == 0) {
      const int out = ::open((outside_ / (command.name + ".out")).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      const int err = ::open((outside_ / (command.name + ".err")).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(out, 1);
      ::dup2(err, 2);
      ::execv(argv[0], argv.data());
      ::_exit(126);
    }
    return command;
  }
  Result finish(const Command& command) {
    int status = 0;
    while (::waitpid(command.pid, &status, 0) < 0 && errno == EINTR) {
    }
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            support::read_file(outside_ / (command.name + ".out")), support::read_file(outside_ / (command.name + ".err"))};
  }
  Result assay(const std::vector<std::string>& arguments) { return finish(start(arguments)); }

  void reap_orphans() const {  // we are process 1 of the namespace
    if (::getpid() != 1) return;
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }

  std::optional<runner::Identity> daemon() const {
    runner::Paths paths;
    paths.data = home_;
    const auto record = runner::read_daemon_record(paths);
    if (!record || !runner::FileLock::is_held(paths.lock())) return std::nullopt;
    return record->process;
  }

  bool hit(const runner::Identity& identity, int signal) {
    return runner::signal_process(runner::open_process(identity), signal);
  }

  // One of the supervisors, or trainers, that live; waits a little for one to come.
  std::optional<runner::Identity> one_of(bool supervisors) {
    for (int look = 0; look < 30; ++look) {
      if (const auto some = living(supervisors); !some.empty())
        return some[static_cast<std::size_t>(pick(static_cast<int>(some.size())))].second;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return std::nullopt;
  }

  // Supervisors, or trainers, that live.
  std::vector<std::pair<std::int64_t, runner::Identity>> living(bool supervisors) const {
    std::vector<std::pair<std::int64_t, runner::Identity>> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(home_ / "runs" / "chaos", error)) {
      if (fs::exists(entry.path() / "exit.json")) continue;
      try {
        const auto record = runner::read_supervisor(entry.path());
        if (!record) continue;
        const runner::Identity& one = supervisors ? record->supervisor : record->trainer;
        if (runner::open_process(one)) found.emplace_back(std::stoll(entry.path().filename().string()), one);
      } catch (const std::exception&) {
        // It is being written.
      }
    }
    return found;
  }

  void arm() {
    static constexpr int kChances[] = {0, 10, 40, 120};
    const int chance = kChances[pick(4)];
    if (chance == 0) return;
    support::write_file_atomically(faults_ / "armed", std::to_string(random_()) + " " + std::to_string(chance));
  }

  void one_round() {
    arm();
    std::vector<std::pair<Command, std::string>> adds;
    const int actions = 4 + pick(6);
    for (int i = 0; i < actions; ++i) {
      switch (pick(disk_ ? 10 : 9)) {
        case 0:
        case 1:
        case 2: {
          const std::string kind = kKinds[static_cast<std::size_t>(pick(4))];
          adds.emplace_back(start({"add", "chaos", "--only", kind, "--json"}), kind);
          ++counts_["add commands"];
          break;
        }
        case 3:
        case 4:
          if (const auto one = daemon(); one && hit(*one, SIGKILL)) ++counts_["kills of the daemon"];
          break;
        case 5:
          if (const auto one = one_of(true); one && hit(*one, SIGKILL)) ++counts_["kills of a supervisor"];
          break;
        case 6:
          if (const auto one = one_of(false); one && hit(*one, SIGKILL)) ++counts_["kills of a trainer"];
          break;
        case 7:
          if (const auto one = daemon(); one && hit(*one, SIGTERM)) ++counts_["SIGTERMs to the daemon"];
          break;
        case 8:
          assay({"kill", kKinds[static_cast<std::size_t>(pick(4))], "--no-wait", "--grace", "0.05"});  // the newest of it
          ++counts_["kill commands"];
          break;
        case 9: fill_disk(); break;
      }
      nap(40);
    }
    nap(100);
    fs::remove(ballast());
    for (const auto& [command, kind] : adds) {
      const Result result = finish(command);
      if (result.code == 0) {
        for (const json& number : json::parse(result.out).at("numbers")) promised_.insert(number.get<std::int64_t>());
        ++counts_["adds answered"];
      } else if (result.code < 128 && (result.err.rfind("assay: ", 0) != 0 || result.err.find('\n') + 1 != result.err.size())) {
        fail("`assay add` ended with " + std::to_string(result.code) + " and not one sentence: " + result.err);
      }
    }
    fs::remove(faults_ / "armed");
  }

  fs::path ballast() const { return options_.folder / "disk" / "ballast"; }

  void fill_disk() {
    const int fd = ::open(ballast().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    std::string block(1 << 16, 'x');
    for (std::size_t size = block.size(); size >= 512;) {
      if (::write(fd, block.data(), size) < 0) size /= 2;
    }
    ::close(fd);
    ++counts_["full disks"];
    nap(300);
    if (pick(2) == 0) fs::remove(ballast());
  }

  // The next daemon brings everything to an end.
  void settle() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    Result result;
    for (;;) {
      reap_orphans();
      result = assay({"status"});
      if (result.code == 0) {
        const auto registry = registry::Registry::open(home_ / "registry.sqlite", registry::Registry::Access::read_only);
        registry::Registry::RunFilter open;
        open.texts = false;
        open.states = {registry::StateKind::queued, registry::StateKind::blocked, registry::StateKind::starting,
                       registry::StateKind::running};
        if (registry.runs(open).empty()) return;
      }
      if (std::chrono::steady_clock::now() > deadline)
        fail("not settled after two minutes; the last `assay status`: " + result.out + result.err);
      std::this_thread::sleep_for(milliseconds(30));
    }
  }

  static std::vector<std::string> lines(const fs::path& file) {
    std::vector<std::string> found;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) found.push_back(line);
    return found;
  }

  void check() {
    const auto registry = registry::Registry::open(home_ / "registry.sqlite", registry::Registry::Access::read_only);
    if (const auto problems = registry.problems(); !problems.empty()) fail("the database: " + problems.front());
    for (const std::int64_t number : promised_)
      if (!registry.run(number)) fail("run " + std::to_string(number) + " was promised and is lost");

    registry::Registry::RunFilter all;
    all.texts = false;
    std::int64_t newest = highest_;
    for (const registry::RunRow& row : registry.runs(all)) {
      if (row.number <= highest_) continue;  // final, and looked at in its own round
      const std::string number = std::to_string(row.number), state = registry::name(row.state.kind);
      if (!fs::exists(fs::path(row.folder) / "run.json")) fail("run " + number + " has no folder");
      const auto started = lines(outside_ / ("started-" + number));
      if (std::set<std::string>(started.begin(), started.end()).size() != started.size() ||
          static_cast<std::int64_t>(started.size()) > row.attempt)
        fail("run " + number + " was started " + std::to_string(started.size()) + " times in " +
             std::to_string(row.attempt) + " attempts");
      const bool finished = fs::exists(outside_ / ("finished-" + number));
      if (state == "succeeded" && !finished) fail("run " + number + " succeeded without having finished");
      // (Killed between its note and its end, it is failed and finished.)
      if (finished && state == "failed" && !row.state.signal) fail("run " + number + " finished and is shown as failed: " + row.state.detail);
      std::set<std::int64_t> steps;
      for (const registry::MetricPoint& point : registry.metrics(row.number, "m")) {
        if (point.value != static_cast<double>(point.step * 7)) fail("run " + number + " has a wrong metric");
        steps.insert(point.step);
      }
      for (const std::string& step : lines(outside_ / ("flushed-" + number)))
        if (steps.count(std::stoll(step)) == 0) fail("run " + number + " (" + state + "): step " + step + " was flushed and is missing");
      ++counts_["runs " + state];
      newest = row.number;
      for (const char* mark : {"started-", "flushed-", "finished-"}) fs::remove(outside_ / (mark + number));
      fs::remove_all(row.folder);  // the disk is small
    }
    highest_ = newest;

    // Nothing of any run lives any more: all are final.
    for (int look = 0;; ++look) {
      const std::string left = processes_of_runs();
      if (left.empty()) break;
      if (look == 100) fail("runs have all ended, and still there is " + left);
      std::this_thread::sleep_for(milliseconds(10));  // a killed process takes its time to go
    }
  }

  std::string processes_of_runs() const {
    const std::string needle = "ASSAY_RUN_DIR=" + home_.string();
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc", error)) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::ifstream in(entry.path() / "environ", std::ios::binary);
      std::ostringstream text;
      text << in.rdbuf();
      if (text.str().find(needle) != std::string::npos && runner::identify(std::stoi(name)))
        return "process " + name + " with " + text.str().substr(text.str().find(needle), 100);
    }
    return "";
  }

  // Nothing runs now. A disk that cannot be written is one sentence, and afterwards all is as before.
  void read_only() {
    const fs::path disk = options_.folder / "disk";
    const Result stopped = assay({"daemon", "stop"});
    if (stopped.code != 0) fail("`assay daemon stop`: " + stopped.err);
    if (::mount(nullptr, disk.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0)
      fail(std::string("the disk cannot be made read-only: ") + std::strerror(errno));
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"status"}, std::vector<std::string>{"add", "chaos"}, std::vector<std::string>{"daemon"}}) {
      const Result result = assay(words);
      if (result.code != 1 || result.err.rfind("assay: ", 0) != 0 || result.err.find('\n') + 1 != result.err.size())
        fail("on a read-only disk `assay " + words[0] + "` ended with " + std::to_string(result.code) + ": " + result.err);
    }
    if (::mount(nullptr, disk.c_str(), nullptr, MS_REMOUNT, nullptr) != 0) fail(std::strerror(errno));
    ++counts_["read-only phases"];
    settle();
    check();
  }

  std::map<std::string, int> hits() const {
    std::map<std::string, int> found;
    for (const std::string& line : lines(faults_ / "hits")) ++found[line];
    return found;
  }

  Options options_;
  bool disk_;
  std::mt19937_64 random_;
  fs::path outside_, faults_, home_;
  std::string program_;
  int round_ = 0;
  unsigned commands_ = 0;
  std::int64_t highest_ = 0;                 // all runs up to here have been looked at
  std::set<std::int64_t> promised_;
  std::map<std::string, int> counts_;
};

int chaos(const Options& options, bool disk) {
  try {
    Chaos whole(options, disk);
    whole.run();
    return 0;
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    std::printf("its data is in %s\n", options.folder.c_str());
    return 1;
  }
}

// Process 1 of namespaces of its own. Returns nothing when they cannot be had.
std::optional<int> in_namespaces(const Options& options) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  const unsigned long flags = CLONE_NEWPID | CLONE_NEWNS | (uid != 0 ? CLONE_NEWUSER : 0);
  const pid_t child = static_cast<pid_t>(::syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (child < 0) return std::nullopt;
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const auto put = [](const char* file, const std::string& text) { std::ofstream(file) << text; };
    if (uid != 0) {
      put("/proc/self/setgroups", "deny");
      put("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1\n");
      put("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1\n");
    }
    const fs::path disk = options.folder / "disk";
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
        ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0 ||
        ::mount("tmpfs", disk.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=24m,mode=700") != 0)
      ::_exit(77);
    const int code = chaos(options, true);
    if (code != 0) {  // the tmpfs goes with us
      std::error_code ignored;
      fs::copy(disk, options.folder / "disk-as-it-was", fs::copy_options::recursive, ignored);
    }
    std::fflush(stdout);
    ::_exit(code);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) return std::nullopt;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 3 && words[0] == "trainer") return trainer(words[1], words[2]);
  Options options;
  for (std::size_t i = 0; i + 1 < words.size(); i += 2) {
    if (words[i] == "--seed") options.seed = std::stoull(words[i + 1]);
    if (words[i] == "--rounds") options.rounds = std::stoi(words[i + 1]);
    if (words[i] == "--folder") options.folder = fs::absolute(words[i + 1]);
  }
  if (options.folder.empty()) {
    std::fprintf(stderr, "usage: assay_chaos --seed N --rounds N --folder DIR\n");
    return 2;
  }
  fs::remove_all(options.folder);
  fs::create_directories(options.folder / "disk");
  std::printf("seed %llu, %d rounds\n", static_cast<unsigned long long>(options.seed), options.rounds);
  std::fflush(stdout);
  if (const auto code = in_namespaces(options)) return *code;
  std::printf("SKIPPED: full and read-only disks (no mount namespace is to be had here)\n");
  return chaos(options, false);
}
