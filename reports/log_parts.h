// What the parts of a log share. Internal to reports/.
#pragma once

#include "reports/log.h"

namespace assay::report {

struct Facts {                       // computed once for all parts
  const SeriesLog& log;
  std::vector<Arm> arms;
  CompareOptions options;
  CauseTable causes;
  const Arm* best = nullptr;         // highest accuracy at its last step
  std::int64_t problems = 0;         // test problems; 0: nothing measured
  double base = 0;                   // mean accuracy at step 0, percent
};

Part runs_part(const Facts& facts);
Part best_part(const Facts& facts);
Part formats_part(const Facts& facts);
Part causes_part(const Facts& facts);
Part environment_part(const Facts& facts);
Part next_part(const Facts& facts);

std::string points_cell(double points);                    // "+1.6", "0.0", "-4.5"
std::string joined(const std::vector<std::string>& words); // "a, b and c"
std::string p_words(double p);                             // "p = .043", "p < .001"
// A sentence in which every figure has these sources. Digits inside of a word or an id, "95 %" before "interval", and what
// stands behind "±" (a margin, which is of another pair) are no figures of theirs.
Line sourced(const std::string& sentence, const std::vector<Source>& sources);
// "8.11 → 60.88" as somebody reported them for the original of a run.
Line published_cell(const RunResult& run);
Line level_cell(const std::optional<Level>& level, int decimals);

}  // namespace assay::report
