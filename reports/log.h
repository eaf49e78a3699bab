// The experiment log of a series: the parts of a document, computed from its rows alone.
#pragma once

#include "reports/causes.h"
#include "reports/document.h"
#include "reports/series_log.h"

namespace assay::report {

// Parts, in this order: title, summary, results, runs, best, formats, causes, environment, next.
Document series_document(const SeriesLog& log);

// What a careful reader would notice, a sentence each: figures that are identical in two runs, accuracies measured under
// something else than trained under or under nothing known, a step-0 spread, figures that were worked out wrongly.
std::vector<Line> notices(const SeriesLog& log, const std::vector<Arm>& arms);

struct ClaimCheck {
  const Claim* claim = nullptr;
  std::optional<double> computed;   // nothing: a figure that it comes from is not there
  bool agrees = false;              // rounded to the decimals it was said with
  std::vector<Source> sources;
};
std::vector<ClaimCheck> check_claims(const SeriesLog& log, const std::vector<Arm>& arms);

}  // namespace assay::report
