// Looks at each step's metrics while a run trains, and says once, in the step where it appears, what is going wrong.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "trainer/grpo/doctor.h"
#include "trainer/grpo/metrics_log.h"

namespace assay::train {

class FindingWatch {
 public:
  explicit FindingWatch(const spec::Config& config) : config_(config) {}
  // Ids as judge()'s: ratio-not-one, rollout-gap, no-reward-spread, responses-cut, lr-large, lr-small; all warnings.
  std::vector<Finding> look(const Metrics& metrics);
  // The same, as events of kind `finding`: message, and data {id, severity, evidence, change}.
  void add(std::int64_t step, const Metrics& metrics, MetricsLog& log);

 private:
  const spec::Config& config_;
  std::set<std::string> said_;
};

}  // namespace assay::train
