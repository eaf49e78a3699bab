// An assay of its own for each test case: folders, daemon, series of shell-script trainers; gone when the object goes.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "catch.h"
#include "registry/registry.h"
#include "runner/daemon.h"
#include "runner/process.h"
#include "runner/run_folder.h"

namespace assay::test {

namespace fs = std::filesystem;
using nlohmann::json;

inline std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

inline void spill(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

inline std::size_t count_lines(const fs::path& file) {
  const std::string text = slurp(file);
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

// Looks again and again, generously: the machine may be busy. False when the time is over.
inline bool eventually(const std::function<bool()>& condition, double seconds = 120) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

struct Result {
  int code = -1;              // 128 + signal when it was killed
  std::string out, err;
};

class Home {
 public:
  explicit Home(const std::string& name) : folder(fresh_folder("r-" + name)) {
    environment["ASSAY_HOME"] = (folder / "home").string();
    environment["ASSAY_SLOTS"] = "2";
    environment["ASSAY_EXPERIMENTS"] = (folder / "series").string();
    fs::create_directories(folder / "series");
    fs::create_directories(folder / "work");
  }

  ~Home() {
    if (const auto pid = daemon_pid()) {
      if (const auto identity = runner::identify(*pid)) {
        const auto pidfd = runner::open_process(*identity);
        runner::signal_process(pidfd, SIGKILL);
        eventually([&] { return !runner::open_process(*identity); }, 30);
      }
    }
    for (const fs::path& run : run_folders()) {
      if (const auto record = runner::read_supervisor(run))
        runner::signal_process(runner::open_process(record->supervisor), SIGKILL);
      runner::end_by_environment("ASSAY_RUN_DIR=" + run.string());
    }
  }
  Home(const Home&) = delete;
  Home& operator=(const Home&) = delete;

  static fs::path program() { return fs::path(ASSAY_BINARY_DIR) / "bin" / "assay"; }

  // Starts `assay ARGUMENTS` with its output in files, and returns its pid.
  pid_t start(const std::vector<std::string>& arguments, const std::string& name) const {
    std::vector<std::string> words = {program().string()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const int out = ::open((folder / (name + ".out")).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      const int err = ::open((folder / (name + ".err")).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(out, 1);
      ::dup2(err, 2);
      for (const char* variable : {"XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME", "ASSAY_TRAIN", "NO_COLOR"})
        ::unsetenv(variable);
      for (const auto& [variable, value] : environment) {
        if (value.empty()) ::unsetenv(variable.c_str());
        else ::setenv(variable.c_str(), value.c_str(), 1);
      }
      if (::chdir((folder / "work").c_str()) != 0) ::_exit(126);
      ::execv(argv[0], argv.data());
      ::_exit(126);
    }
    return child;
  }

  Result finish(pid_t child, const std::string& name) const {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    Result result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = slurp(folder / (name + ".out"));
    result.err = slurp(folder / (name + ".err"));
    return result;
  }

  Result assay(const std::vector<std::string>& arguments) const {
    const std::string name = "command-" + std::to_string(++commands_);
    const Result result = finish(start(arguments, name), name);
    UNSCOPED_INFO("assay " << (arguments.empty() ? "" : arguments[0]) << " -> " << result.code << "\n"
                           << result.out << result.err);
    return result;
  }

  // A series of shell scripts, id -> script. The scripts may use $GATES, a folder of the test's; `more` goes into each
  // [[run]]'s change, e.g. "\"schedule.time_limit\" = 1".
  void series(const std::string& id, const std::vector<std::pair<std::string, std::string>>& scripts,
              const std::string& more = "") const {
    fs::create_directories(folder / "gates");
    std::string text = "[series]\nid = \"" + id + "\"\n[base.trainer]\nkind = \"command\"\nargv = [\"true\"]\n";
    for (const auto& [run, script] : scripts) {
      const fs::path file = folder / "scripts" / (id + "-" + run + ".sh");
      spill(file, "GATES='" + (folder / "gates").string() + "'\nmetric() { echo '{\"step\": '$1', \"time\": '$(date +%s)"
                  "', \"metrics\": {\"critic/score/mean\": 0.5}}' >> \"$ASSAY_RUN_DIR/metrics.jsonl\"; }\n"
                  "gate() { while [ ! -e \"$GATES/$1\" ]; do sleep 0.05; done; }\n" + script + "\n");
      text += "[[run]]\nid = \"" + run + "\"\nbaseline = \"\"\nchange = { \"trainer.argv\" = [\"/bin/sh\", \"" +
              file.string() + "\", \"{run_dir}\"]" + (more.empty() ? "" : ", " + more) + " }\n";
    }
    spill(folder / "series" / (id + ".toml"), text);
  }

  void open_gate(const std::string& name) const { spill(folder / "gates" / name, ""); }

  fs::path data() const { return environment.at("ASSAY_HOME"); }

  registry::Registry registry() const {
    return registry::Registry::open(data() / "registry.sqlite", registry::Registry::Access::read_only);
  }
  registry::RunRow run(std::int64_t number) const {
    const auto row = registry().run(number);
    REQUIRE(row);
    return *row;
  }
  std::string state(std::int64_t number) const { return registry::name(run(number).state.kind); }

  std::optional<pid_t> daemon_pid() const {
    runner::Paths paths;
    paths.data = data();
    const auto record = runner::read_daemon_record(paths);
    if (!record || !runner::FileLock::is_held(paths.lock())) return std::nullopt;
    return record->process.pid;
  }

  void kill_daemon() const {
    const auto pid = daemon_pid();
    REQUIRE(pid);
    const auto identity = runner::identify(*pid);
    REQUIRE(identity);
    REQUIRE(::kill(*pid, SIGKILL) == 0);
    REQUIRE(eventually([&] { return !runner::open_process(*identity); }));
  }

  std::vector<fs::path> run_folders() const {
    std::vector<fs::path> folders;
    std::error_code error;
    for (const auto& series : fs::directory_iterator(data() / "runs", error))
      for (const auto& run : fs::directory_iterator(series.path(), error)) folders.push_back(run.path());
    std::sort(folders.begin(), folders.end());
    return folders;
  }

  fs::path folder;
  std::map<std::string, std::string> environment;

 private:
  mutable int commands_ = 0;
};

// True while a process lives whose number, as it sees it itself, a script wrote into this file: the last number of
// NSpid in /proc/PID/status, where the run has a PID namespace of its own.
inline bool lives(const fs::path& pid_file) {
  const std::string text = slurp(pid_file);
  if (text.empty()) return false;
  const std::string mark = pid_file.parent_path().parent_path().string();   // the home's name is in every argv or environ
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::istringstream status(slurp(entry.path() / "status"));
    std::string own;
    for (std::string line; std::getline(status, line);)
      if (line.rfind("NSpid:", 0) == 0) own = line.substr(line.find_last_of("\t ") + 1);
    if (own.empty() || std::stol(own) != std::stol(text)) continue;
    if (slurp(entry.path() / "environ").find("ASSAY_RUN_DIR=" + mark) == std::string::npos) continue;
    if (runner::identify(static_cast<pid_t>(std::stol(name)))) return true;
  }
  return false;
}

inline bool one_sentence(const std::string& text) {
  return text.rfind("assay: ", 0) == 0 && std::count(text.begin(), text.end(), '\n') == 1;
}

}  // namespace assay::test
