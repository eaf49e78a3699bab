// From the registry's rows to what reports/exports.h writes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "registry/registry.h"
#include "reports/exports.h"

namespace assay::runner {

// With `outcomes`, each evaluation's single problems too. The times of metrics are those in the run folder's
// metrics.jsonl; where it is gone, that of the run's start.
std::vector<report::ExportedRun> exported_runs(const registry::Registry& registry,
                                               const std::vector<registry::RunRow>& rows, bool outcomes);

struct MlflowTarget {
  std::string address;       // http://127.0.0.1:5000; or $MLFLOW_TRACKING_URI
  std::string experiment;    // empty: the run's series
};
struct MlflowRun {
  std::string run;           // "17 e13g-nvfp4 s1"
  std::string id;            // MLflow's
  bool again = false;        // it was there already, and has been brought up to date
};
// Logs the runs to an MLflow server: configuration as parameters, what else is known as tags, metrics with step and time,
// each evaluation's accuracy as eval/accuracy. A run that was exported there before is found by its tag assay.uid and gets
// what is new. $MLFLOW_TRACKING_TOKEN, or $MLFLOW_TRACKING_USERNAME and _PASSWORD, are used as MLflow's own clients do.
// Throws UserError: no answer, or what the server said.
std::vector<MlflowRun> export_to_mlflow(const MlflowTarget& target, const std::vector<report::ExportedRun>& runs);

// A name as MLflow takes it: other characters than letters, digits and _-.: / become '_'.
std::string mlflow_name(const std::string& name);

}  // namespace assay::runner
