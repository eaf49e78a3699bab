// The TOML file that defines the embedded default: problems, documents, base model (experiments/e13/pretrain.toml is
// one, with every key explained there).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "trainer/tasks/documents.h"

namespace assay::train::tasks {

struct ProblemsConfig {
  std::uint64_t seed = 0;
  std::int64_t train = 0, test = 0;  // how many
};

struct BaseModelConfig {             // Qwen2 with tied embeddings
  std::filesystem::path out;         // resolved
  std::int64_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, intermediate = 0, max_positions = 0;
  double rope_theta = 0, rms_eps = 0;
};

struct PretrainingConfig {           // AdamW, linear warm-up, cosine to lr * final_lr
  std::uint64_t seed = 0;
  std::int64_t steps = 0, batch = 0, bucket = 0, warmup = 0, threads = 0;
  double lr = 0, final_lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, grad_clip = 0;
  double prompt_weight = 0;
};

struct TaskConfig {
  std::filesystem::path file;
  ProblemsConfig problems;
  Mixture mixture;
  std::uint64_t documents_seed = 0;
  std::filesystem::path tokenizer;   // folder, resolved
  BaseModelConfig model;
  PretrainingConfig training;

  // Every key is required. Throws std::runtime_error with all errors, each `file:line:column: what; what was expected`.
  static TaskConfig read(const std::filesystem::path& file);
};

}  // namespace assay::train::tasks
