#include "runner/trainer_process.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/attempts.h"
#include "runner/init.h"
#include "runner/process.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A value of config.json as a word of a command line: text as it is, a list joined by commas, the rest as JSON writes it.
std::string as_word(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string words;
  for (const json& element : value) words += (words.empty() ? "" : ",") + as_word(element);
  return words;
}

// {run_dir}, {config}, {seed} and {quant.format} for any key, each looked at once: what is put in is never read again.
std::string filled_in(const std::string& text, const std::map<std::string, std::string>& places) {
  std::string filled;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text[at] == '{' ? text.find('}', at) : std::string::npos;
    const auto place = end == std::string::npos ? places.end() : places.find(text.substr(at + 1, end - at - 1));
    if (place == places.end()) {
      filled += text[at++];
    } else {
      filled += place->second;
      at = end + 1;
    }
  }
  return filled;
}

std::vector<std::string> merged_environment(const std::vector<std::string>& additions) {
  std::map<std::string, std::string> entries;
  const auto add = [&](const std::string& entry) {
    const auto equals = entry.find('=');
    if (equals != std::string::npos) entries[entry.substr(0, equals)] = entry;
  };
  for (char** entry = environ; *entry != nullptr; ++entry) add(*entry);
  for (const std::string& entry : additions) add(entry);
  std::vector<std::string> merged;
  for (auto& [name, entry] : entries) merged.push_back(std::move(entry));
  return merged;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> list;
  for (std::string& word : words) list.push_back(word.data());
  list.push_back(nullptr);
  return list;
}

}  // namespace

Launch plan_launch(const fs::path& folder) {
  const std::string text = support::read_file(folder / "config.json");
  const std::string hash = support::read_file(folder / "config.sha256");
  if (hash.substr(0, 64) != support::sha256_hex(text))
    throw std::runtime_error((folder / "config.json").string() + ": does not have the hash in config.sha256; it was "
                                                                 "changed or cut short, so the run is not started");
  Launch plan;
  try {
    const json config = json::parse(text);
    const json run = json::parse(support::read_file(folder / "run.json"));
    const json& trainer = config.at("trainer");
    const LaunchRecord attempt = read_launch(folder);
    if (trainer.at("kind") == "command") {
      std::map<std::string, std::string> places = {{"run_dir", folder.string()},
                                                   {"config", (folder / "config.json").string()},
                                                   {"seed", as_word(config.at("train").at("seed"))}};
      const std::vector<std::string> words = trainer.at("argv").get<std::vector<std::string>>();
      if (std::any_of(words.begin(), words.end(), [](const std::string& word) { return word.find('{') != std::string::npos; }))
        for (const auto& [section, table] : config.items())
          for (const auto& [name, value] : table.items()) places[section + "." + name] = as_word(value);
      for (const std::string& word : words) plan.argv.push_back(filled_in(word, places));
      if (plan.argv.empty()) throw std::runtime_error((folder / "config.json").string() + ": trainer.argv is empty");
    } else {
      plan.argv = {run.at("trainer").get<std::string>(), "run", folder.string()};
      if (attempt.resume) plan.argv.push_back("--resume");
    }
    plan.work_folder = run.value("work_folder", "");
    if (plan.work_folder.empty() || !fs::is_directory(plan.work_folder)) plan.work_folder = folder;
    plan.environment = {
        "ASSAY_RUN_DIR=" + folder.string(),
        "ASSAY_CONFIG=" + (folder / "config.json").string(),
        "ASSAY_METRICS=" + (folder / "metrics.jsonl").string(),
        "ASSAY_ATTEMPT=" + std::to_string(attempt.attempt),
        std::string("ASSAY_RESUME=") + (attempt.resume ? "1" : "0"),
        // Of one process; who starts several (srun, torchrun) sets its own for each.
        "ASSAY_RANK=0",
        "ASSAY_WORLD_SIZE=1",
        "ASSAY_RUN_NUMBER=" + std::to_string(run.at("number").get<std::int64_t>()),
        "ASSAY_SEED=" + std::to_string(config.at("train").at("seed").get<std::int64_t>()),
        "OMP_NUM_THREADS=" + std::to_string(config.at("train").at("threads").get<std::int64_t>()),
    };
    if (!attempt.gpus.empty()) {
      std::string indices;
      for (const int gpu : attempt.gpus) indices += (indices.empty() ? "" : ",") + std::to_string(gpu);
      plan.environment.push_back("CUDA_VISIBLE_DEVICES=" + indices);
      plan.environment.push_back("CUDA_DEVICE_ORDER=PCI_BUS_ID");  // the order that our indices count in
    }
    plan.time_limit = config.at("schedule").value("time_limit", 0.0);
    plan.stall_timeout = config.at("schedule").value("stall_timeout", 0.0);
    plan.metrics = trainer.value("metrics", "jsonl");
    plan.metrics_regex = trainer.value("metrics_regex", "");
    plan.changed = changed_programs(run.value("programs", json::array()));
  } catch (const json::exception& error) {
    throw std::runtime_error(folder.string() + ": run.json or config.json is not what assay writes: " + error.what());
  }
  plan.stdout_file = folder / "stdout.log";
  plan.stderr_file = folder / "stderr.log";
  return plan;
}

namespace {

// A child of ours in new namespaces, as fork() gives one; on failure -1 and errno.
pid_t clone_into(unsigned long flags) {
  return static_cast<pid_t>(::syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, 0));
}

std::string reason(const init::Failure& failure) {
  return std::string(failure.what) + " (" + std::strerror(failure.error) + ")";
}

void wait_for(pid_t child) {
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

TrainerProcess TrainerProcess::start(const Launch& plan) {
  std::vector<std::string> words = plan.argv;
  std::vector<std::string> environment = merged_environment(plan.environment);
  const std::vector<char*> argv = pointers(words);
  const std::vector<char*> envp = pointers(environment);
  const std::string folder = plan.work_folder.string();

  const Fd out(::open(plan.stdout_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!out) throw std::runtime_error(plan.stdout_file.string() + ": " + std::strerror(errno));
  const Fd err(::open(plan.stderr_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!err) throw std::runtime_error(plan.stderr_file.string() + ": " + std::strerror(errno));
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));

  const char* asked = std::getenv("ASSAY_ISOLATION");
  std::string why_not = asked != nullptr && std::string(asked) == "none" ? "ASSAY_ISOLATION is none" : "";
  for (bool isolated = why_not.empty();; isolated = false) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
      throw std::runtime_error(std::string("socketpair: ") + std::strerror(errno));
    Fd ours(ends[0]), theirs(ends[1]);
    const int yes = 1;
    ::setsockopt(ours.get(), SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
    Fd read_end(ends[0]), write_end(ends[1]);

    // Root keeps its own user namespace: in a new one it would lose its power over other users' files.
    const bool user_namespace = isolated && ::geteuid() != 0;
    const init::Setup setup{isolated, user_namespace, ::geteuid(), ::getegid(), theirs.get(), write_end.get(), null.get(),
                            out.get(), err.get(), argv.data(), envp.data(), folder.c_str()};
    const pid_t child = isolated ? clone_into(CLONE_NEWPID | CLONE_NEWNS | (user_namespace ? CLONE_NEWUSER : 0)) : ::fork();
    if (child == 0) init::run(setup);
    if (child < 0 && isolated) {
      why_not = std::string("new namespaces (") + std::strerror(errno) + ")";
      continue;
    }
    if (child < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
    theirs.reset();
    write_end.reset();
    init::Failure failure{};
    ssize_t n;
    while ((n = ::read(read_end.get(), &failure, sizeof failure)) < 0 && errno == EINTR) {
    }
    if (n == sizeof failure) {
      ours.reset();  // the init ends with it, if it has not
      wait_for(child);
      if (failure.stage == init::Stage::isolation && isolated) {
        why_not = reason(failure);
        continue;
      }
      throw std::runtime_error((failure.stage == init::Stage::chdir ? folder + ": cannot be entered"
                                                                    : plan.argv[0] + ": cannot be started") +
                               " (" + std::strerror(failure.error) + ")");
    }
    return TrainerProcess(child, std::move(ours), isolated ? "pid-namespace" : "none: " + why_not);
  }
}

TrainerProcess::TrainerProcess(pid_t init, Fd channel, std::string isolation)
    : init_(init), channel_(std::move(channel)), isolation_(std::move(isolation)) {
  char hello = 0;
  iovec piece{&hello, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n;
  while ((n = ::recvmsg(channel_.get(), &message, 0)) < 0 && errno == EINTR) {
  }
  trainer_.boot_id = boot_id();
  if (n != 1 || hello != 'T') return;  // the init was killed at once: there is no trainer to name
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part))
    if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS) {
      ucred sender{};
      std::memcpy(&sender, CMSG_DATA(part), sizeof sender);
      trainer_ = identify(sender.pid).value_or(Identity{trainer_.boot_id, sender.pid, 0});
    }
}

void TrainerProcess::signal_group(int signal, double leftover_grace) {
  const init::Command command{signal, leftover_grace < 0 ? -1 : static_cast<std::int32_t>(leftover_grace * 1000)};
  [[maybe_unused]] const auto n = ::send(channel_.get(), &command, sizeof command, MSG_NOSIGNAL);
}

std::optional<TrainerEnd> TrainerProcess::ended() {
  if (end_) return end_;
  init::Ended message{};
  if (::recv(channel_.get(), &message, sizeof message, MSG_DONTWAIT) == sizeof message)
    end_ = TrainerEnd{message.exited != 0, message.status, message.when};
  return end_;
}

void TrainerProcess::kill_everything() {
  if (isolation_ == "pid-namespace") {
    ::kill(init_, SIGKILL);  // our child, not waited for yet: the number is its own
    return;
  }
  // All but the init, which then ends by itself and tells how the trainer ended.
  for (const Identity& identity : descendants())
    if (identity.pid != init_) signal_process(open_process(identity), SIGKILL);
}

}  // namespace assay::runner
