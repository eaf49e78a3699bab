// The base model of the embedded default: a small decoder trained from nothing on the generator's documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "trainer/tasks/config.h"

namespace assay::train::tasks {

struct PretrainStep {
  std::int64_t step = 0;  // 1-based
  double loss = 0;        // weighted mean over the batch's tokens, nats
  double lr = 0;
};

// How the finished model does on the test problems of one topic, by a greedy and by a sampled answer (temperature 1).
struct TopicAccuracy {
  std::string topic;
  std::int64_t problems = 0;
  std::int64_t greedy = 0, sampled = 0;  // right number in the wanted form
};

struct PretrainResult {
  std::int64_t parameters = 0, tokens = 0;  // tokens: those of all documents, padding not counted
  double loss = 0;                          // mean of the last 50 steps (or of all, if fewer)
  std::vector<TopicAccuracy> accuracy;      // in the config's order
};

// Trains as `config.training` says and writes an ordinary Hugging Face folder (config.json, generation_config.json,
// model.safetensors, the tokenizer's files, README.md as its model card) to `out`, whole or not at all: what was there
// is replaced in one step. The same config, build and machine type give the same bytes.
// `revision` goes into the model card: which source made it; empty: not said.
// Throws std::runtime_error: an unusable tokenizer, a document longer than max_positions, a loss that is not finite.
PretrainResult pretrain(const TaskConfig& config, const std::filesystem::path& out, const std::string& revision,
                        const std::function<void(const PretrainStep&)>& progress);

// lr of step `step` (1-based): linear warm-up over the first `warmup` steps, times a cosine that falls from 1 to final_lr.
double pretraining_lr(const PretrainingConfig& config, std::int64_t step);

}  // namespace assay::train::tasks
