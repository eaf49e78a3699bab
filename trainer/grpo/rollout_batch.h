// One step's training batch: sampled, scored, filtered, with rewards and advantages.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/grpo/session.h"

namespace assay::train {

// Rows r = prompt * G + sample, the samples of a prompt beside each other.
struct Batch {
  std::vector<std::size_t> problem;                 // per prompt: index into the training set
  std::vector<std::vector<std::int32_t>> prompts;   // per prompt: tokens
  Rollout rollout;                                  // per row
  std::vector<std::string> completions;             // per row: text
  std::vector<Score> scores;                        // per row
  std::vector<double> rewards;                      // per row: score plus overlong penalty
  std::vector<double> advantages;                   // per row
  std::int64_t prompt_count() const { return static_cast<std::int64_t>(prompts.size()); }

  // What dynamic sampling did; without it: one generation batch, everything kept.
  std::int64_t generation_batches = 0, groups_sampled = 0, groups_with_spread = 0;
  double noise_sigma = -1;                          // of this step's noise on the norms; -1: the run has none
  double sampled_score_sum = 0;                     // over all rows sampled, the dropped ones included
  bool short_of_groups = false;                     // fewer prompts than train_batch_size, for want of spread
};

// Gives the step's noise on the norms to the decoder, where the run has noise; it stays for the updates of the step.
// Draws prompts from `order`, samples under Phase::rollout and scores. With grpo.filter_groups groups without a spread of
// scores are dropped and more are drawn until train_batch_size are there or max_num_gen_batches were drawn; surplus
// groups are dropped too. Throws what sample() throws, and Stopped when a stop signal came.
Batch collect_batch(Session& session, DataOrder& order, std::int64_t step);

}  // namespace assay::train
