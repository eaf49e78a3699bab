// One step's policy updates: mini-batches of prompts, one optimizer step each.
//
// The old log-probs of the ratio are those of the training forward before the first update, as in verl, not the
// sampler's: under a rollout/train mismatch (apply_during, or a tensor scale that depends on the batch) the sampler's
// would carry the mismatch into the ratio, and clipping would act on it. The first mini-batch's are its own, detached, and
// cost nothing; the others' are computed in one pass without gradient before the first update. That pass is left out where
// it could only repeat the sampler's bits: the config cannot make the two differ (spec::batch_invariant), and in the first
// mini-batch they do not.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/rollout_batch.h"

namespace assay::train {

struct UpdateResult {
  Metrics metrics;                 // actor/*, rollout_corr/*, training/*, timing_s/old_log_prob
  std::int64_t updates = 0;        // optimizer steps made
  std::int64_t without_graph = 0;  // mini-batches whose loss depended on no adapter at all
  std::vector<bool> covered;       // per adapter tensor: had a non-zero gradient in some update of this step
};

// Runs the updates of `step`. Throws NonFinite before the optimizer step that would have used a non-finite loss or
// gradient, and Stopped between two micro-batches when a stop signal came: the step is then half done, and the optimizer's
// state from before it is what counts. An empty batch gives no updates.
UpdateResult update_policy(Session& session, Optimizer& optimizer, const Batch& batch, std::int64_t step);

}  // namespace assay::train
