// A series as its log needs it: rows in. Filled from the registry by runner/series_log.h, rendered by log.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "reports/comparison.h"

namespace assay::report {

struct LayerCount {                       // adapter tensors of a layer
  std::int64_t with_gradient = 0, tensors = 0;
};

struct RecordedFigures {                  // of a run that was imported from records
  std::string outcome, script, log, date, source;
  std::vector<std::string> commits;
  std::map<std::int64_t, double> accuracy, score;   // step -> percent, as printed
  std::vector<std::string> ranges;        // "critic/score/mean 26 to 32 in steps 12 to 16"
  std::optional<double> quantization_error;         // percent
};

struct LoggedRun {
  RunResult result;                       // first: step 0; last: the last step planned
  std::vector<EvalPoint> evaluations;     // all, by step; outcomes only where result has them
  std::vector<std::pair<std::int64_t, double>> scores;   // mean training score by step, as a share
  std::map<std::string, std::string> config;             // "quant.ste" -> JSON text; without train.seed and schedule.*
  std::string config_sha256;
  std::string quant_label;                // what it was trained under, in words
  std::string hypothesis, change;         // as written
  std::map<std::string, std::string> changed;            // key -> "old -> new" against its baseline
  std::string verdict, conclusion;        // as written by a person; empty: not judged
  std::vector<std::string> notes;         // versioned records, newest last
  std::string code_commit;                // of the user's repository; empty: none
  bool code_dirty = false;
  std::string assay_commit, environment;  // one line each
  std::string folder;                     // where its log lies
  std::string started;                    // ISO 8601 UTC; empty: never
  std::string repeats;                    // the number of the run that `assay verify` made it of; empty: it was not
  std::optional<double> seconds_per_step; // mean
  std::vector<LayerCount> coverage;       // by layer, of the preflight; empty: not known
  std::vector<double> weight_error;       // by layer, relative error of the weights in percent; empty: not known
  std::optional<double> mean_weight_error;
  std::string origin;                     // "records.toml (records)"; empty: it was run here
  RecordedFigures recorded;
};

struct DeclaredCause {
  std::string name, run, against, note;
  std::string verdict;                    // as a person decided, with the reason; empty: computed only
};

struct Claim {                            // a figure that somebody worked out, and what it comes from
  std::string what, note, unit, how, metric;   // unit x | % | points; how ratio | percent | difference
  double said = 0, of = 0, to = 0;
  std::int64_t decimals = 0, step = -1;
  std::string of_run, to_run;             // empty: of and to are numbers
};

struct SeriesLog {
  std::string id, title, goal, notes;
  std::vector<std::string> dates, next_steps;
  std::vector<std::string> remarks;       // notes and conclusions about the series as a whole
  double success_accuracy = 50, cause_margin = 0.10;
  std::vector<DeclaredCause> causes;
  std::vector<LoggedRun> runs;            // the latest of each id and seed, in the series' order
  // By number: superseded by a later one of the same id and seed; or, where its `repeats` says so, made by `assay verify`.
  std::vector<LoggedRun> earlier;
  std::vector<std::string> not_run;       // ids of the series that have no run
  // Of imported records.
  std::string records_source, quant_note, test_name;
  std::vector<std::pair<std::string, std::string>> commits;   // id, what
  std::vector<std::string> side_problems, open_questions, background, files;
  std::vector<Claim> claims;
};

}  // namespace assay::report
