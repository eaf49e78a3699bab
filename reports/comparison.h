// The comparison table: rows in, text out. Pure: no clock, no files, no SQL; the same rows give the same bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reports/statistics.h"

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
  std::string excluded;            // why it is left out of comparisons; empty: it is not
  std::int64_t steps = 0;          // planned
  // Step 0, and the last step planned, or the two steps the user chose; absent while not there. Tables name the steps.
  std::optional<EvalPoint> first, last;
  std::optional<double> published_first, published_last;  // percent
  std::optional<double> training_score;   // mean score of the last training step, as a share
  std::optional<std::int64_t> adapters_with_gradient, adapter_tensors;  // of the last training step
};

struct CompareOptions {
  double success_accuracy = 50;    // percent, from the series
  double alpha = 0.05;
  std::string baseline;            // one for all rows; empty: each run's own
};

struct Verdict {
  std::string word;                // success | learns | flat | degraded | untested | unfinished | excluded, or the state's own name
  std::string sentence;
};
// The rule, in one place (docs/statuses.md): see comparison.cpp.
Verdict verdict(const RunResult& run, const CompareOptions& options);
// The same rule in one sentence, for below a table.
std::string status_rule(const CompareOptions& options);

struct ComparisonRow {
  RunResult run;
  std::optional<Interval> interval;        // 95 % Wilson, of the last accuracy, as shares
  std::string baseline;                    // what it is compared with; empty: nothing
  std::optional<double> difference;        // last accuracy minus the baseline's, percentage points
  std::optional<double> p;                 // exact McNemar on the same problems
  std::string refused;                     // why difference or p is missing although there is a baseline
  Verdict verdict;
};

struct Comparison {
  std::vector<ComparisonRow> rows;         // by run in the order given, then by seed
  CompareOptions options;
};
// A run's baseline is looked for among the same rows, with the same seed.
Comparison compare(const std::vector<RunResult>& runs, const CompareOptions& options);

// `-` for a cell that is not there, `!` for one that is missing because the run went wrong. Markdown is aligned, so that
// it reads as plain text too; what the columns mean, the rule and what is unfinished stand below it. CSV and JSON carry
// shares in full, intervals and p to 12 digits; JSON has null for `-` and `!`.
std::string to_markdown(const std::vector<RunResult>& runs, const CompareOptions& options);
std::string to_csv(const std::vector<RunResult>& runs, const CompareOptions& options);
std::string to_json(const std::vector<RunResult>& runs, const CompareOptions& options);

}  // namespace assay::report
