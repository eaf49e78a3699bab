// Two clients that add and kill, a third that watches, and a reader of the registry, all at once and without pause:
// nobody may hear "database is locked", and every command gets its reply.
//
//   assay_hammer --seconds 5 | --minutes 10  --folder DIR
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "registry/registry.h"
#include "runner/client.h"
#include "runner/paths.h"
#include "support/files.h"

using namespace assay;
namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

struct Result {
  int code;
  std::string out, err;
};

class Hammer {
 public:
  Hammer(fs::path folder, double seconds) : folder_(std::move(folder)), seconds_(seconds) {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "series");
    program_ = (fs::read_symlink("/proc/self/exe").parent_path() / "assay").string();
    ::setenv("ASSAY_HOME", (folder_ / "home").c_str(), 1);
    ::setenv("ASSAY_SLOTS", "2", 1);
    ::setenv("ASSAY_EXPERIMENTS", (folder_ / "series").c_str(), 1);
    std::ofstream(folder_ / "series" / "h.toml")
        << "[series]\nid = \"h\"\n[base.trainer]\nkind = \"command\"\nargv = [\"/bin/sh\", \"-c\", "
           "'echo \"{\\\"step\\\":1,\\\"metrics\\\":{\\\"m\\\":1}}\" >> \"$ASSAY_RUN_DIR/metrics.jsonl\"; sleep 0.05']\n"
           "[[run]]\nid = \"a\"\n";
  }

  int run() {
    must(assay({"status"}, "first"), 0);
    const auto end = Clock::now() + std::chrono::duration<double>(seconds_);
    const auto go = [&](auto body) {
      return std::thread([this, end, body] {
        try {
          while (Clock::now() < end && !failed_) body();
        } catch (const std::exception& error) {
          complain(error.what());
        }
      });
    };
    std::vector<std::thread> threads;
    for (int client = 0; client < 2; ++client) threads.push_back(go([this, client] { add_and_kill(client); }));
    threads.push_back(go([this] { must(assay({"status", "--json"}, "status"), 0); ++looks_; }));
    threads.push_back(go([this] { read(); }));
    for (std::thread& thread : threads) thread.join();
    const Result rest = assay({"kill", "h"}, "rest");
    if (rest.code != 0 && rest.code != 5) complain("kill: " + rest.err);
    assay({"wait"}, "wait");
    check();
    must(assay({"daemon", "stop", "--kill"}, "stop"), 0);
    for (const std::string& error : errors_) std::printf("FAILED: %s\n", error.c_str());
    std::printf("%zu runs added, %d kills, %d listings, %d readings of the registry, %zu faults\n", numbers_.size(), kills_.load(),
                looks_.load(), readings_.load(), errors_.size());
    return errors_.empty() ? 0 : 1;
  }

 private:
  Result assay(const std::vector<std::string>& arguments, const std::string& name) {
    std::vector<std::string> words{program_};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string out = (folder_ / (name + ".out")).string(), err = (folder_ / (name + ".err")).string();
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_t pid = 0;
    const int failed = ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw std::runtime_error("posix_spawn failed");
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), support::read_file(out), support::read_file(err)};
  }

  void must(const Result& result, int code) {
    if (result.code != code || result.err.find("locked") != std::string::npos)
      throw std::runtime_error("exit code " + std::to_string(result.code) + ": " + result.err);
  }

  void add_and_kill(int client) {
    const std::string name = "client-" + std::to_string(client);
    const Result added = assay({"add", "h", "--json"}, name);
    must(added, 0);
    const auto number = json::parse(added.out).at("numbers").at(0).get<std::int64_t>();
    {
      const std::lock_guard lock(mutex_);
      if (!numbers_.insert(number).second) throw std::runtime_error("two replies have the same run");
    }
    if (number % 2 == 0) {
      must(assay({"kill", std::to_string(number), "--no-wait", "--grace", "0"}, name), 0);
      ++kills_;
    }
  }

  void read() {
    const auto registry = registry::Registry::open(folder_ / "home" / "registry.sqlite", registry::Registry::Access::read_only);
    for (int i = 0; i < 20; ++i) {
      registry::Registry::RunFilter filter;
      filter.limit = 50;
      for (const registry::RunRow& row : registry.runs(filter)) {
        registry.progress(row.number);
        registry.metrics(row.number);
      }
      ++readings_;
    }
  }

  void check() {
    const auto registry = registry::Registry::open(folder_ / "home" / "registry.sqlite", registry::Registry::Access::read_only);
    for (const std::int64_t number : numbers_)
      if (const auto row = registry.run(number); !row || !registry::is_final(row->state.kind))
        complain("run " + std::to_string(number) + " was promised and has not come to its end");
    for (const std::string& problem : registry.problems()) complain(problem);
    registry::Registry::RunFilter all;
    all.texts = false;
    if (registry.runs(all).size() != numbers_.size()) complain("there are runs that nobody was told of");
  }

  void complain(const std::string& what) {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    errors_.push_back(what);
  }

  fs::path folder_;
  double seconds_;
  std::string program_;
  std::mutex mutex_;
  std::set<std::int64_t> numbers_;
  std::vector<std::string> errors_;
  std::atomic<bool> failed_{false};
  std::atomic<int> kills_{0}, looks_{0}, readings_{0};
};

}  // namespace

int main(int argc, char** argv) {
  double seconds = 5;
  fs::path folder;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--seconds") seconds = std::stod(argv[i + 1]);
    if (option == "--minutes") seconds = 60 * std::stod(argv[i + 1]);
    if (option == "--folder") folder = fs::absolute(argv[i + 1]);
  }
  if (folder.empty()) {
    std::fprintf(stderr, "usage: assay_hammer --seconds N|--minutes N --folder DIR\n");
    return 2;
  }
  return Hammer(folder, seconds).run();
}
