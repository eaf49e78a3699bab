#include "runner/trainer_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/attempts.h"
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
      for (const auto& [section, table] : config.items())
        for (const auto& [name, value] : table.items()) places[section + "." + name] = as_word(value);
      for (const json& word : trainer.at("argv")) plan.argv.push_back(filled_in(word.get<std::string>(), places));
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
  } catch (const json::exception& error) {
    throw std::runtime_error(folder.string() + ": run.json or config.json is not what assay writes: " + error.what());
  }
  plan.stdout_file = folder / "stdout.log";
  plan.stderr_file = folder / "stderr.log";
  return plan;
}

pid_t launch(const Launch& plan) {
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
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
  Fd read_end(pipe_ends[0]), write_end(pipe_ends[1]);

  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
  if (child == 0) {
    // Only async-signal-safe calls from here on.
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);  // it died before that took effect
    ::dup2(null.get(), 0);
    ::dup2(out.get(), 1);
    ::dup2(err.get(), 2);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    for (int signal = 1; signal < 32; ++signal) ::signal(signal, SIG_DFL);
    int error = 0;
    if (::chdir(folder.c_str()) != 0) {
      error = errno;
    } else {
      ::execvpe(argv[0], argv.data(), envp.data());
      error = errno;
    }
    [[maybe_unused]] const auto n = ::write(write_end.get(), &error, sizeof error);
    ::_exit(127);
  }
  write_end.reset();
  int error = 0;
  ssize_t n;
  while ((n = ::read(read_end.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (n == sizeof error) {
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    throw std::runtime_error(plan.argv[0] + ": cannot be started (" + std::strerror(error) + ")");
  }
  return child;
}

}  // namespace assay::runner
