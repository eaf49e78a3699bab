// Tables that the user shapes: any metric at any steps, the config keys that differ, sorted, grouped; and two runs problem by
// problem. Rows in, a document out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "reports/document.h"
#include "reports/series_log.h"

namespace assay::report {

struct GridRun {
  LoggedRun run;
  std::string series;
  std::map<std::string, std::vector<std::pair<std::int64_t, double>>> metrics;   // those the table asks for, by step
};

struct GridOptions {
  std::string metric;               // empty: accuracy, in %
  std::vector<std::int64_t> steps;  // empty: 0 and the last one planned
  bool stepwise = false;            // every step there is a value of, instead
  bool only_changed = false;        // columns: the config keys in which the runs differ
  std::string sort_by;              // id, seed, run, series, value, difference, a config key; "-" before it: falling
  std::string group_by;             // a config key: one row a value
  std::string baseline;             // run id for all; empty: each run's own
  double success_accuracy = 50;
};

// The names --sort-by takes besides config keys.
const std::vector<std::string>& sort_words();

Document grid(const std::vector<GridRun>& runs, const GridOptions& options);

struct Answer {
  std::string outcome, completion;
  bool correct = false;
};
struct ProblemPair {
  std::int64_t index = 0;
  std::string question, gold;       // empty: not known
  Answer first, second;
};
// What `second` gets right and `first` does not, and the other way round, both answers side by side.
Document problems_document(const std::string& first, const std::string& second, std::int64_t step,
                           const std::vector<ProblemPair>& all);

// The first table of a document: one line of heads, one a row; and as JSON: an object a row, with the sources of numbers.
std::string table_csv(const Document& document);
std::string table_json(const Document& document);

}  // namespace assay::report
