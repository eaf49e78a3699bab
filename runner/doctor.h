// The preflight, run by the trainer (`assay-train doctor --jobs`), several at once.
#pragma once

#include <string>
#include <vector>

#include "runner/paths.h"
#include "runner/resolve.h"

namespace assay::runner {

struct DoctorJob {
  std::string name;                   // how it is called where findings are shown
  std::string config_json, derived_json;
  int threads = 1;
  std::vector<std::string> options{};  // more of assay-train doctor's command line
  bool alone = false;                  // needs the machine's memory, or its GPU, for itself
};

// Of a run as resolve() gives it; `name` is what findings call it.
DoctorJob doctor_job(const ResolvedRun& run, const std::string& name);

struct DoctorResult {
  std::string json;                   // what goes into doctor.json
  int exit_code = 0;                  // of assay-train doctor
  std::string error;                  // its last line on stderr when it gave no findings
};

// Runs each, those that follow one another and are alike in threads and options as many at once as the machine's cores
// allow. Results in the order of the jobs.
std::vector<DoctorResult> run_doctors(const Paths& paths, const std::vector<DoctorJob>& jobs);

struct GroupedFinding {
  std::string severity, what, change;
  std::vector<std::string> names;     // of the jobs that have it, in their order
};
// Findings worth a warning (severity "warning" or "error"), the same ones of several jobs together.
std::vector<GroupedFinding> group_findings(const std::vector<DoctorJob>& jobs, const std::vector<DoctorResult>& results);

}  // namespace assay::runner
