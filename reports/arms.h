// Runs of one id with several seeds as one row, and what sets two of them apart.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reports/document.h"
#include "reports/series_log.h"

namespace assay::report {

struct Arm {
  std::string id;
  std::vector<const LoggedRun*> runs;      // by seed; those excluded are not among them
  const LoggedRun& any() const { return *runs.front(); }
};
// In the order of the runs. The runs must outlive the arms.
std::vector<Arm> arms_of(const SeriesLog& log);
const Arm* find_arm(const std::vector<Arm>& arms, const std::string& id);

// Accuracy of an arm at its first or last step: over its seeds.
struct Level {
  Mean percent;                            // over the seeds measured
  std::int64_t correct = 0, problems = 0;  // summed over them
  Interval pooled;                         // Wilson over all problems of all seeds, percent
  std::int64_t step = 0, seeds = 0;
  bool other_quant = false;                // measured under another quantization than trained under, or an unknown one
  std::vector<Source> sources;
};
std::optional<Level> level(const Arm& arm, bool last);

// The difference `run` - `against` at the last step, percentage points.
struct Contrast {
  std::string run, against;
  std::optional<double> points;
  Interval interval;                       // 95 %; several seeds: the wider of t over seeds and the pooled one
  double p = 1;                            // several seeds: the larger of the t test over seeds and the pooled one
  std::string test;                        // which tests those are
  std::int64_t seeds = 0, problems = 0;    // compared; problems of one seed
  double deviation = 0;                    // of the differences over seeds, points
  std::string refused;                     // why there is no difference
  std::string not_paired;                  // why the problems could not be paired although there is one
  std::vector<Source> sources;
};
Contrast contrast(const Arm& run, const Arm& against);

// Config keys in which two runs differ. quant.mode follows its format and is not counted where the format differs.
std::vector<std::string> differing_keys(const LoggedRun& a, const LoggedRun& b);

bool measured(const std::optional<EvalPoint>& point);
double percent_of(const EvalPoint& point);
Source source_of(const LoggedRun& run, const EvalPoint& point);
bool under_other_quant(const EvalPoint& point);

}  // namespace assay::report
