// What a training step says about itself: its metrics under verl's names, its samples, its line on standard output.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/rollout_batch.h"
#include "trainer/grpo/update.h"

namespace assay::train {

struct StepTimes {
  double generation = 0, update = 0, step = 0;  // seconds
};

// critic/*, response_length/*, prompt_length/*, reward/*, rollout/*, timing_s/*, perf/*; to be put beside update.metrics.
Metrics batch_metrics(const Batch& batch, std::int64_t max_response_length, const StepTimes& times);

// samples/step-NNNNNN.jsonl: all rows of the first two groups.
void write_samples(const std::filesystem::path& run_folder, std::int64_t step, const Batch& batch);

std::string step_line(std::int64_t step, std::int64_t steps, const Metrics& metrics);

}  // namespace assay::train
