// Watches, in the first steps, which adapter tensors get a gradient, and says once what it saw.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/rollout_batch.h"
#include "trainer/grpo/update.h"

namespace assay::train {

class CoverageWatch {
 public:
  explicit CoverageWatch(std::vector<std::string> tensors);
  // Adds a step. B starts at zero, and until it has moved no A can have a gradient; so the verdict comes with the first
  // step that began after an update at a learning rate above zero, and that had an advantage other than zero in it: a
  // `finding` event when some tensors never had a gradient.
  void add(std::int64_t step, const Batch& batch, const UpdateResult& update, double lr, MetricsLog& log);

  struct State {
    std::vector<bool> covered;  // per tensor: had a gradient
    bool moved = false, done = false;
  };
  const State& state() const { return state_; }
  void restore(State state) { state_ = std::move(state); }

 private:
  std::vector<std::string> tensors_;
  State state_;
};

}  // namespace assay::train
