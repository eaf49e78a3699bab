// Rows for `assay compare`'s tables that the user shapes (reports/grid.h), and two runs problem by problem.
#pragma once

#include <string>
#include <vector>

#include "registry/registry.h"
#include "reports/grid.h"

namespace assay::runner {

// The runs, and those they are compared with that are not among them, as in runner/comparison.h. `metric` empty: accuracy.
std::vector<report::GridRun> grid_runs(const registry::Registry& registry, const std::vector<registry::RunRow>& rows,
                                       const report::GridOptions& options);

// Keeps the runs that a filter KEY=VALUE names: id, seed, series, state, or a config key. Throws UserError (kUsage).
void filter_runs(std::vector<registry::RunRow>& rows, const std::vector<std::string>& where);

// Throws UserError (kUsage) when it is no config key.
void check_config_key(const std::string& option, const std::string& key);

struct Problems {
  std::string first, second;                // the runs, in words that tell them apart
  std::int64_t step = 0;
  std::vector<std::int64_t> steps;          // at which both were measured
  std::vector<report::ProblemPair> pairs;   // all of them, by their place in the test file
};
// Every test problem of two runs at a step (-1: the last that both have), with both answers, from their folders. Throws
// UserError when the runs cannot be paired, with the reason.
Problems problem_pairs(const registry::Registry& registry, const registry::RunRow& first, const registry::RunRow& second,
                       std::int64_t step);

}  // namespace assay::runner
