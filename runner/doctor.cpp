#include "runner/doctor.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
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

DoctorResult collect(const fs::path& folder, const TrainerEnd& end) {
  DoctorResult result;
  result.exit_code = end.exited ? end.status : 128 + end.status;
  const std::string out = fs::exists(folder / "stdout.log") ? support::read_file(folder / "stdout.log") : "";
  if (json::accept(out)) {
    result.json = out;
  } else {
    result.error = last_line(folder / "stderr.log");
    if (result.error.empty()) result.error = "assay-train doctor ended with code " + std::to_string(result.exit_code);
  }
  return result;
}

}  // namespace

std::vector<DoctorResult> run_doctors(const Paths& paths, const std::vector<DoctorJob>& jobs) {
  std::vector<DoctorResult> results(jobs.size());
  if (jobs.empty()) return results;
  const fs::path trainer = find_trainer();
  const ScratchFolder scratch(paths.state / ("doctor-" + std::to_string(::getpid())));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  std::map<pid_t, std::pair<TrainerProcess, std::size_t>> running;  // by their inits
  std::size_t next = 0;
  int used = 0;
  const auto needs = [&](std::size_t job) { return jobs[job].alone ? cores : std::clamp(jobs[job].threads, 1, cores); };
  while (next < jobs.size() || !running.empty()) {
    while (next < jobs.size() && used + needs(next) <= cores) {
      const fs::path folder = scratch.path() / std::to_string(next);
      make_folder(folder);
      support::write_file_atomically(folder / "config.json", jobs[next].config_json);
      support::write_file_atomically(folder / "derived.json", jobs[next].derived_json);
      Launch plan;
      plan.argv = {trainer.string(), "doctor", (folder / "config.json").string(), "--json"};
      plan.argv.insert(plan.argv.end(), jobs[next].options.begin(), jobs[next].options.end());
      plan.environment = {"OMP_NUM_THREADS=" + std::to_string(jobs[next].threads)};
      plan.work_folder = folder;
      plan.stdout_file = folder / "stdout.log";
      plan.stderr_file = folder / "stderr.log";
      used += needs(next);
      TrainerProcess doctor = TrainerProcess::start(plan);
      const pid_t init = doctor.init();
      running.emplace(init, std::pair(std::move(doctor), next));
      ++next;
    }
    const pid_t pid = ::waitpid(-1, nullptr, 0);
    if (pid < 0 && errno == EINTR) continue;
    const auto ended = running.find(pid);
    if (ended == running.end()) continue;
    const std::size_t job = ended->second.second;
    results[job] = collect(scratch.path() / std::to_string(job),
                           ended->second.first.ended().value_or(TrainerEnd{false, SIGKILL, 0}));
    used -= needs(job);
    running.erase(ended);
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
