// The comparison table: rows in, text out. Pure: no clock, no files, no SQL.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace assay::report {

struct EvalPoint {                 // one accuracy
  std::int64_t step = 0, problems = 0, correct = 0;
  std::string quant, trained_quant, data_sha256;
  std::vector<bool> outcomes;      // by problem, file order; empty: not known
};

struct RunResult {                 // one run (one seed) as the table needs it
  std::int64_t number = 0;
  std::string id, title, hook, blocking, ste, format;   // as the config says; "-" where it does not apply
  std::string baseline;            // run id; empty: none
  std::int64_t seed = 0;
  std::string state, state_detail; // registry state
  std::int64_t steps = 0;          // planned
  std::optional<EvalPoint> first, last;   // step 0, and the last step planned (absent while it is not there)
  std::optional<double> published_first, published_last;  // percent
};

struct CompareOptions {
  double success_accuracy = 50;    // percent, from the series
  double alpha = 0.05;
  std::string baseline;            // one for all rows; empty: each run's own
};

struct Verdict {
  std::string word;                // success | learns | flat | degraded | unfinished | failed | lost | killed | …
  std::string sentence;
};
// The rule, in one place (docs/statuses.md): see comparison.cpp.
Verdict verdict(const RunResult& run, const CompareOptions& options);

struct Comparison;                 // computed rows
std::string to_markdown(const std::vector<RunResult>& runs, const CompareOptions& options);
std::string to_csv(const std::vector<RunResult>& runs, const CompareOptions& options);
std::string to_json(const std::vector<RunResult>& runs, const CompareOptions& options);

}  // namespace assay::report
