#include "runner/verify.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "registry/facts.h"
#include "runner/diff.h"
#include "runner/errors.h"
#include "runner/process.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kMetricsKept = 20;   // of the first step that differs, in the record

// Runs a program in `folder` with its output appended to `log`; its exit code, 128 + signal when it was killed.
int run_program(const std::vector<std::string>& words, const fs::path& folder, const fs::path& log) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const Fd out(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!out) throw std::runtime_error(log.string() + ": cannot be written");
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork: there is no process to be had");
  if (child == 0) {
    ::dup2(out.get(), 1);
    ::dup2(out.get(), 2);
    if (::chdir(folder.c_str()) != 0) ::_exit(126);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string running_commit(bool& dirty) {
  const json build = json::parse(registry::code_facts("/").json).at("assay");
  dirty = build.at("dirty").get<bool>();
  return build.at("commit").get<std::string>();
}

bool is_commit(const std::string& text) {
  return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string value_text(const json& value) {
  if (value.is_null()) return "-";
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

TrainerBuild trainer_build(const Paths& paths, const json& code, const std::string& dirty_diff, const std::string& source,
                           bool any) {
  const json then = code.value("assay", json::object());
  const std::string commit = then.value("commit", "unknown");
  const bool dirty = then.value("dirty", false);
  bool now_dirty = false;
  const std::string now = running_commit(now_dirty);
  TrainerBuild build;
  if (any || (commit == now && dirty == now_dirty && commit != "unknown")) {
    build.trainer = find_trainer().string();
    build.commit = now;
    if (commit != now) build.remarks.push_back("assay " + commit.substr(0, 12) + " then, " + now.substr(0, 12) + " now");
    else if (dirty || now_dirty) build.remarks.push_back("assay was built with uncommitted changes, which cannot be compared");
    return build;
  }
  const char* const kThisBuild = "; --this-build uses the running assay all the same";
  if (!is_commit(commit))
    throw UserError(kRefused, "verify: the run does not say which commit of assay it was made by" + std::string(kThisBuild));
  const char* variable = std::getenv("ASSAY_SOURCE");
  const fs::path repository = !source.empty() ? fs::path(source) : variable != nullptr ? fs::path(variable) : fs::path(ASSAY_SOURCE_FOLDER);
  // Uncommitted changes of then are known only if the run was queued from within assay's own repository.
  const json user = code.value("user", json());
  const bool have_diff = dirty && user.is_object() && user.value("commit", json()) == commit && !dirty_diff.empty();
  if (dirty && !have_diff)
    throw UserError(kRefused, "verify: assay " + commit.substr(0, 12) + " was built with uncommitted changes, which are not recorded" +
                                  std::string(kThisBuild));
  build.commit = commit;
  const std::string name = dirty ? commit + "-" + support::sha256_hex(dirty_diff).substr(0, 12) : commit;
  const fs::path builds = paths.state / "builds", tree = builds / name, log = builds / (name + ".log");
  const fs::path trainer = tree / "build" / "default" / "bin" / "assay-train";
  build.trainer = trainer.string();
  fs::create_directories(builds);
  if (fs::exists(builds / (name + ".ready")) && fs::exists(trainer)) return build;
  std::fprintf(stderr, "building assay %s in %s; its log is %s\n", commit.substr(0, 12).c_str(), tree.c_str(), log.c_str());
  const auto step = [&](const std::vector<std::string>& words, const fs::path& folder, const std::string& what) {
    if (run_program(words, folder, log) != 0)
      throw UserError(kRefused, "verify: " + what + " (see " + log.string() + ")" + kThisBuild);
  };
  if (!fs::exists(repository / ".git"))
    throw UserError(kRefused, repository.string() + ": is no git repository of assay; name it with --source or $ASSAY_SOURCE" + kThisBuild);
  if (!fs::exists(tree))
    step({"git", "-c", "safe.directory=*", "worktree", "add", "--detach", tree.string(), commit}, repository,
         "commit " + commit.substr(0, 12) + " of assay cannot be checked out from " + repository.string());
  if (dirty) {
    support::write_file_atomically(builds / (name + ".diff"), dirty_diff);
    step({"git", "checkout", "--", "."}, tree, "the worktree cannot be set back");
    step({"git", "apply", "--binary", (builds / (name + ".diff")).string()}, tree, "the uncommitted changes of then do not apply");
  }
  // LibTorch is unpacked there once for all worktrees.
  if (fs::exists(repository / ".deps") && !fs::exists(tree / ".deps")) fs::create_directory_symlink(fs::canonical(repository / ".deps"), tree / ".deps");
  step({"cmake", "--preset", "default"}, tree, "assay " + commit.substr(0, 12) + " cannot be configured");
  step({"cmake", "--build", "--preset", "default", "--target", "assay-train"}, tree, "assay " + commit.substr(0, 12) + " cannot be built");
  if (!fs::exists(trainer)) throw UserError(kRefused, trainer.string() + ": the build made no such program (see " + log.string() + ")" + kThisBuild);
  support::write_file_atomically(builds / (name + ".ready"), "");
  return build;
}

json verification(const registry::Registry& registry, const registry::RunRow& original, const registry::RunRow& again, double tolerance) {
  const fs::path then = original.folder, now = again.folder;
  const auto text_of = [](const fs::path& file) { return support::read_file(file); };
  const MetricsDifference metrics = compare_metrics(registry, original.number, again.number);
  const json files = compare_files(then, now);
  const json inputs = compare_inputs(text_of(then / "inputs.json"), text_of(now / "inputs.json"));
  json environment = compare_json(text_of(then / "environment.json"), text_of(now / "environment.json"));
  for (auto row = environment.begin(); row != environment.end();)
    row = row->at("key") == "boot_id" ? environment.erase(row) : row + 1;   // says nothing about the machine itself
  const bool ended_alike = original.state.kind == again.state.kind;

  std::string verdict = "different", text;
  const std::string points = std::to_string(metrics.compared) + " metrics";
  if (metrics.compared == 0) {
    text = "different: there are no metrics to compare";
  } else if (!metrics.parts_at && files.empty() && ended_alike) {
    verdict = "identical";
    text = "identical: " + points + ", samples, evaluations and adapter, bit by bit";
  } else if (tolerance > 0 && metrics.largest <= tolerance && ended_alike) {
    verdict = "equal within tolerance";
    char numbers[96];
    std::snprintf(numbers, sizeof numbers, "%.3g, and the largest is %.3g", tolerance, metrics.largest);
    text = "equal within tolerance: relative differences up to " + std::string(numbers) + " (" + metrics.largest_key + ", step " +
           std::to_string(metrics.largest_step) + ") in " + points;
  } else if (metrics.parts_at) {
    const MetricPair& pair = metrics.there.front();
    char numbers[96];
    if (pair.a && pair.b) std::snprintf(numbers, sizeof numbers, "%.17g then, %.17g now", *pair.a, *pair.b);
    else std::snprintf(numbers, sizeof numbers, "there %s only", pair.a ? "then" : "now");
    text = "different from step " + std::to_string(*metrics.parts_at) + " on (" + pair.key + ": " + numbers + "; " +
           std::to_string(metrics.compared - metrics.equal) + " of " + points + " differ)";
  } else if (!files.empty()) {
    text = "different: all " + points + " are the same, but " + files.front().at("file").get<std::string>() + " " +
           files.front().at("what").get<std::string>();
  }
  if (!ended_alike)
    text += std::string(text.empty() ? "different: " : "; ") + "it " + registry::name(original.state.kind) + " then and " + registry::name(again.state.kind) + " now" +
            (again.state.detail.empty() ? "" : " (" + again.state.detail + ")");
  for (const json& file : inputs)
    text += "; input " + file.at("path").get<std::string>() + ": SHA-256 " + value_text(file.at("a")).substr(0, 12) + "… then, " +
            value_text(file.at("b")).substr(0, 12) + "… now";
  for (const json& row : environment)
    text += "; " + row.at("key").get<std::string>() + ": " + value_text(row.at("a")) + " then, " + value_text(row.at("b")) + " now";

  json there = json::array();
  for (const MetricPair& pair : metrics.there) {
    if (there.size() == kMetricsKept) break;
    const auto number = [](const std::optional<double>& value) {
      return !value ? json(nullptr) : *value == *value ? json(*value) : json("nan");
    };
    there.push_back({{"key", pair.key}, {"a", number(pair.a)}, {"b", number(pair.b)}});
  }
  return {{"verdict", verdict},
          {"text", text},
          {"by", again.number},
          {"step", metrics.parts_at ? json(*metrics.parts_at) : json(nullptr)},
          {"tolerance", tolerance},
          {"metrics", {{"compared", metrics.compared}, {"equal", metrics.equal}}},
          {"there", there},
          {"files", files},
          {"inputs", inputs},
          {"environment", environment}};
}

}  // namespace assay::runner
