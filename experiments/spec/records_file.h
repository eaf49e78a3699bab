// A file of records: what somebody else reported of runs that were never run here (docs/series.md, "Records"). The series
// it names gives each run its config; this file gives the figures, and what else was written down.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "experiments/spec/series.h"

namespace assay::spec {

struct RecordedRange {            // "26 to 32 % in steps 12 to 16"
  std::string metric;
  std::int64_t from = 0, to = 0;  // steps, both included
  double low = 0, high = 0;       // in the unit it was reported in
};

struct RecordedRun {
  std::string run;                // id in the series
  std::optional<std::int64_t> seed;            // nothing: as the config says
  std::map<std::int64_t, double> accuracy;     // step -> percent
  std::map<std::int64_t, double> score;        // step -> mean training score, percent
  std::vector<RecordedRange> ranges;
  std::optional<double> quantization_error;    // percent
  std::string outcome;            // as it was booked
  std::string script, log, date;
  std::vector<std::string> commits, files;
  std::string state = "succeeded";             // succeeded | failed | killed | lost
  std::string detail;             // why, where it is not succeeded
};

struct RecordedCommit {
  std::string id, what;
};

struct RecordedClaim {            // a figure that somebody worked out: said, and from what
  std::string what, note;
  double said = 0;
  std::string unit;               // "x", "%", "points"
  std::string how = "ratio";      // ratio: of / to; percent: 100 of / to; difference: of - to
  std::int64_t decimals = 0;      // it was said with
  double of = 0, to = 0;          // the operands as numbers …
  std::string of_run, to_run;     // … or the accuracies of two runs at a step
  std::int64_t step = -1;
  std::string of_metric = "accuracy";          // accuracy | score, of the runs
};

struct RecordsFile {
  std::filesystem::path file;
  std::string text;               // its bytes
  std::string series;             // id, or a path relative to the file
  std::string source;             // one sentence: whose records these are
  std::string test_name, metric, quant = "unknown", quant_note;
  std::int64_t problems = 0;
  std::vector<RecordedCommit> commits;
  std::vector<RecordedClaim> claims;
  std::vector<std::string> side_problems, open_questions, background, files;
  std::vector<RecordedRun> runs;
};

// The count of right answers that an accuracy in percent, as it was printed, stands for; nothing when no count of
// `problems` rounds to it (the decimals it was printed with are those it needs, at most two).
std::optional<std::int64_t> count_of(double percent, std::int64_t problems);

// All that is wrong with the file at once.
std::variant<RecordsFile, Diagnostics> read_records(const std::filesystem::path& file);

}  // namespace assay::spec
