#include "runner/doctor.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "runner/errors.h"
#include "runner/run_folder.h"
#include "runner/trainer_process.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A folder for the length of one command.
class ScratchFolder {
 public:
  explicit ScratchFolder(fs::path folder) : folder_(std::move(folder)) { make_folder(folder_); }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return folder_; }

 private:
  fs::path folder_;
};

DoctorResult collect(const fs::path& folder, int exit_code) {  // folder: below that of the process for all
  DoctorResult result;
  result.exit_code = exit_code;
  const std::string out = fs::exists(folder / "stdout.log") ? support::read_file(folder / "stdout.log") : "";
  if (json::accept(out)) {
    result.json = out;
  } else {
    result.error = last_line(folder / "stderr.log");
    if (result.error.empty()) result.error = last_line(folder.parent_path() / "stderr.log");
    if (result.error.empty()) result.error = "assay-train doctor ended with code " + std::to_string(result.exit_code);
  }
  return result;
}

bool alike(const DoctorJob& a, const DoctorJob& b) {
  return a.threads == b.threads && a.options == b.options && a.alone == b.alone;
}

// How each of the configs ended; `missing` where nothing was said of it. One assay-train for all: it forks.
std::vector<int> examine(const fs::path& scratch, const std::vector<fs::path>& configs, const DoctorJob& kind, int missing) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Launch plan;
  plan.argv = {find_trainer().string(), "doctor"};
  for (const fs::path& config : configs) plan.argv.push_back(config.string());
  plan.argv.insert(plan.argv.end(), {"--json", "--jobs", std::to_string(kind.alone ? 1 : std::max(1, cores / std::max(1, kind.threads)))});
  plan.argv.insert(plan.argv.end(), kind.options.begin(), kind.options.end());
  plan.environment = {"OMP_NUM_THREADS=" + std::to_string(kind.threads)};
  plan.work_folder = scratch;
  plan.stdout_file = scratch / "stdout.log";
  plan.stderr_file = scratch / "stderr.log";
  TrainerProcess doctor = TrainerProcess::start(plan);
  while (::waitpid(doctor.init(), nullptr, 0) < 0 && errno == EINTR) {
  }
  std::vector<int> codes(configs.size(), missing);
  std::istringstream said(support::read_file(plan.stdout_file));
  for (std::size_t index = 0, code = 0; said >> index >> code;)
    if (index < codes.size()) codes[index] = static_cast<int>(code);
  return codes;
}

}  // namespace

DoctorJob doctor_job(const ResolvedRun& run, const std::string& name) {
  const auto& train = run.config.train;
  return {name, run.run.config_json, run.run.derived_json, static_cast<int>(train.threads), {}, train.device == "cuda"};
}

std::vector<DoctorResult> run_doctors(const Paths& paths, const std::vector<DoctorJob>& jobs) {
  std::vector<DoctorResult> results;
  if (jobs.empty()) return results;
  const ScratchFolder scratch(paths.state / ("doctor-" + std::to_string(::getpid())));
  for (std::size_t first = 0; first < jobs.size();) {
    std::vector<fs::path> configs;
    for (std::size_t job = first; job < jobs.size() && alike(jobs[first], jobs[job]); ++job) {
      const fs::path folder = scratch.path() / std::to_string(job);
      make_folder(folder);
      support::write_file_atomically(folder / "config.json", jobs[job].config_json);
      support::write_file_atomically(folder / "derived.json", jobs[job].derived_json);
      configs.push_back(folder / "config.json");
    }
    const std::vector<int> codes = examine(scratch.path(), configs, jobs[first], 128 + SIGKILL);
    for (std::size_t i = 0; i < codes.size(); ++i) results.push_back(collect(configs[i].parent_path(), codes[i]));
    first += codes.size();
  }
  return results;
}

std::vector<GroupedFinding> group_findings(const std::vector<DoctorJob>& jobs,
                                           const std::vector<DoctorResult>& results) {
  std::vector<GroupedFinding> groups;
  const auto add = [&](const std::string& severity, const std::string& what, const std::string& change,
                       const std::string& name) {
    for (GroupedFinding& group : groups)
      if (group.severity == severity && group.what == what && group.change == change) {
        group.names.push_back(name);
        return;
      }
    groups.push_back({severity, what, change, {name}});
  };
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (!results[i].error.empty()) {
      add("error", "no preflight was possible: " + results[i].error, "", jobs[i].name);
      continue;
    }
    const json document = json::parse(results[i].json);
    for (const json& finding : document.value("findings", json::array())) {
      const std::string severity = finding.value("severity", "");
      if (severity == "warning" || severity == "error")
        add(severity, finding.value("what", ""), finding.value("change", ""), jobs[i].name);
    }
  }
  std::stable_sort(groups.begin(), groups.end(), [](const GroupedFinding& a, const GroupedFinding& b) {
    return a.severity == "error" && b.severity != "error";
  });
  return groups;
}

}  // namespace assay::runner
