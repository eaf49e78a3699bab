#include "trainer/grpo/doctor.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

struct Options {
  std::vector<std::filesystem::path> configs;
  std::filesystem::path path, out, shape;
  int jobs = 0;
  bool json = false, random_weights = false;
  std::int64_t prompts = 16;
};

int run_doctor(const Options& options) {
  const Inputs inputs = read_inputs(options.path);
  const auto shape = options.shape.empty() ? std::filesystem::path(inputs.derived.model_path) : options.shape;
  if (options.random_weights && !std::filesystem::exists(shape / "config.json"))
    throw BadInput((shape / "config.json").string() + ": no such file, and random weights need its shape; give a folder that has one with --shape");
  Session session = options.random_weights ? open_random_session(inputs, shape) : open_session(inputs);
  const Measurements seen = options.random_weights ? measure_random(session) : measure(session, options.prompts);
  const auto findings = judge(seen);
  const std::string document = doctor_json(seen, findings).dump(2) + "\n";
  auto out = options.out;
  if (out.empty() && std::filesystem::is_directory(options.path)) out = options.path / "doctor.json";
  if (!out.empty()) try {
      support::write_file_atomically(out, document);
    } catch (const std::exception& error) {
      throw BadInput(std::string(error.what()) + ": the findings cannot be written there; give another --out");
    }
  std::cout << (options.json ? document : doctor_text(seen, findings)) << std::flush;
  const bool wrong =
      std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.severity == Severity::error; });
  return wrong ? exit_findings : exit_finished;
}

std::runtime_error failed(const std::string& what) { return std::runtime_error(what + ": " + std::strerror(errno)); }

void write_into(const std::filesystem::path& file, int descriptor) {
  const int opened = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (opened < 0 || ::dup2(opened, descriptor) < 0) throw failed(file.string());
  ::close(opened);
}

// Forks a process for each config, options.jobs at once, and says how each ended: "INDEX CODE", 128 and its number for a
// signal. Forked here, they share what LibTorch does when it is loaded, a third of a second. True in such a process, with
// its config as options.path; false in this one, once all have ended.
bool apart(Options& options) {
  const pid_t parent = ::getpid();
  std::map<pid_t, std::size_t> running;
  for (std::size_t next = 0; next < options.configs.size() || !running.empty();) {
    if (next < options.configs.size() && running.size() < static_cast<std::size_t>(options.jobs)) {
      options.path = options.configs[next];
      const pid_t pid = ::fork();
      if (pid < 0) throw failed("fork");
      if (pid == 0) {
        if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) throw failed("prctl");
        if (::getppid() != parent) ::_exit(exit_fault);  // it died before that
        const auto folder = std::filesystem::is_directory(options.path) ? options.path : options.path.parent_path();
        write_into(folder / "stderr.log", STDERR_FILENO);
        write_into(folder / "stdout.log", STDOUT_FILENO);
        return true;
      }
      running.emplace(pid, next++);
      continue;
    }
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, 0);
    if (pid < 0 && errno != EINTR) throw failed("waitpid");
    const auto ended = running.find(pid);
    if (ended == running.end()) continue;
    std::printf("%zu %d\n", ended->second, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    std::fflush(stdout);
    running.erase(ended);
  }
  return false;
}

}  // namespace

void add_doctor(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "doctor", "what is quantized, which adapter tensors get a gradient, what will not work and why; measured on a few prompts");
  auto options = std::make_shared<Options>();
  verb->add_option("CONFIG", options->configs, "a run folder (doctor.json is written there), or a config.json")->required();
  auto* out = verb->add_option("--out", options->out, "write the findings as JSON into this file");
  verb->add_flag("--json", options->json, "print them as JSON");
  verb->add_option("--prompts", options->prompts, "groups to sample, at most train_batch_size")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  verb->add_flag("--random-weights", options->random_weights,
                 "without the model: random weights of its shape, random prompts, made-up rewards; one form of each weight in memory");
  verb->add_option("--shape", options->shape, "with --random-weights: the folder whose config.json says the shape, instead of model.path")
      ->needs("--random-weights");
  verb->add_option("--jobs", options->jobs,
                   "several CONFIG: a process for each, so many at once; what each prints is stdout.log and stderr.log beside its "
                   "config, and a line here says which of them, from 0, ended with which exit code")
      ->check(CLI::Range(1, 4096))
      ->excludes(out);
  verb->callback([options, &exit_code] {
    if (options->jobs == 0 && options->configs.size() > 1) throw CLI::ValidationError("CONFIG", "several need --jobs");
    options->path = options->configs.front();
    if (options->jobs == 0 || apart(*options)) exit_code = run_doctor(*options);
  });
}

}  // namespace assay::train
