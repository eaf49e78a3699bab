// What the doctor's measurements share.
#pragma once

#include <vector>

#include "trainer/grpo/doctor.h"

namespace assay::train {

struct Sampled {
  std::vector<std::vector<std::int32_t>> prompts;
  Rollout rollout;
  std::vector<double> scores;  // per response; made up for random weights
};

// Rows of the first `prompts` groups of a sample.
Sampled first_groups(const Sampled& all, std::size_t prompts, std::int64_t group);

// Which adapter tensors get a gradient, and why the others do not; max |ratio - 1| of the same forward pass twice.
void measure_gradients(Session& session, const Sampled& sampled, Measurements& result);
// Two updates at the run's full learning rate; the adapters are put back.
void measure_updates(Session& session, const Sampled& sampled, Measurements& result);

}  // namespace assay::train
