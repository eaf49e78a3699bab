// `assay verify`: a run once more, from what was frozen then, and compared with it bit by bit.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/paths.h"

namespace assay::runner {

struct TrainerBuild {
  std::string trainer;                  // path of the assay-train to use
  std::string commit;                   // of assay it is built from
  std::vector<std::string> remarks;     // why it may still not be the one of then
};

// The assay-train of the commit that code.json names: the running one if that is it, else one built in a git worktree of
// its own under STATE/builds/COMMIT, kept for the next time. `source`: assay's repository; empty: $ASSAY_SOURCE, or the
// folder this build came from. `any`: the running one, whatever the commit, with a remark.
// Throws UserError: the commit is unknown or not in the repository, or the build fails (its log is named).
TrainerBuild trainer_build(const Paths& paths, const nlohmann::json& code, const std::string& dirty_diff,
                           const std::string& source, bool any);

// {"verdict": "identical" | "equal within tolerance" | "different", "text": one sentence, "by": number of the second run,
//  "step": first step that differs | null, "tolerance", "metrics": {"compared", "equal", "largest"}, "there": […],
//  "files": […], "inputs": […], "environment": […]}
// Facts are read from the folders, which are the record. `tolerance`: relative difference of metrics that passes; 0: none.
nlohmann::json verification(const registry::Registry& registry, const registry::RunRow& original,
                            const registry::RunRow& again, double tolerance);

}  // namespace assay::runner
