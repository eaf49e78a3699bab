// From the registry's rows to the comparison table's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "reports/comparison.h"

namespace assay::runner {

struct CompareChoice {
  std::string baseline;                       // run id for all; empty: each run's own
  std::optional<std::int64_t> first, last;    // steps compared; else 0 and the last one planned
};

// One run's row of the table.
report::RunResult run_result(const registry::Registry& registry, const registry::RunRow& row, const CompareChoice& choice);

// The runs' results, and after them those of the baselines they name that are not among them: the latest run of that id
// with the same seed, in the series that the run says its baseline stands in.
std::vector<report::RunResult> results(const registry::Registry& registry, const std::vector<registry::RunRow>& rows,
                                       const CompareChoice& choice);

// Whom a tag `excluded` leaves out of comparisons, and why (`assay tag RUN excluded --why TEXT`); a run's label of that name is
// in run_result() already. What is said of one run goes before what is said of its id.
void take_exclusions(const registry::Registry& registry, const std::string& series, const std::vector<report::RunResult*>& runs);

// As the series of the first row asks for.
report::CompareOptions compare_options(const registry::Registry& registry, const std::vector<registry::RunRow>& rows,
                                       const CompareChoice& choice);

}  // namespace assay::runner
