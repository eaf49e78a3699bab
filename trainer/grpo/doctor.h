// The preflight: what is quantized, which adapter tensors can learn, and what will not work and why. All of it measured.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/grpo/session.h"

namespace assay::train {

enum class Severity : std::uint8_t { info, warning, error };
const char* name(Severity severity);

struct Finding {
  std::string id;        // stable: see judge()
  Severity severity = Severity::info;
  std::string what;      // in words, the cause first
  std::string evidence;  // figures
  std::string change;    // what to set to what; empty: nothing
};

struct TensorGradient {
  std::string tensor;      // PEFT's name
  std::string projection;  // model.layers.0.self_attn.q_proj
  bool non_zero = false, finite = true;
};

struct ModuleError {       // signal to quantization noise, 10 log10(sum x² / sum (xq - x)²)
  std::string module;
  double weight_sqnr_db = 0;      // 0: the weight is not quantized
  bool activation = false;        // an activation quantizer ran, and the two below mean something
  double activation_sqnr_db = 0;
  double dead_share = 0;          // non-zero values that became zero
};

// What was seen on a few prompts. Everything judge() needs, so that judging is a pure function.
struct Measurements {
  spec::Config config;
  AttachReport report;
  std::string trained_quant, evaluated_quant;
  std::vector<TensorGradient> gradients;   // with B random, advantages of both signs
  std::vector<ModuleError> errors;         // one per report.modules, in their order
  std::int64_t groups = 0, groups_with_spread = 0;
  double mean_score = 0;
  std::int64_t tokens = 0;                 // over which the gap was taken
  double gap_mean = 0, gap_max = 0;        // |training log-prob - sampler's log-prob|
  double gap_k3 = 0;                       // estimate of KL(sampler || trainer)
  double seconds = 0;
};

// Samples up to `prompts` groups, compares the sampler's log-probs with the training forward's, and differentiates a made-up
// loss with every B random and advantages of both signs (with B zero, as at the start, no A has a gradient whatever the
// quantizer does). The adapters are left as they were, bit for bit. Cost: about one training step of that many prompts.
Measurements measure(Session& session, std::int64_t prompts = 16);

// Ids: ste-missing-pre, ste-missing-post, ste-broken, gradient-missing, gradient-not-finite (errors); quantized-twice,
// rollout-differs, rollout-gap, eval-differs, no-reward-spread, large-error (warnings); coverage, rollout-same,
// reward-spread, quantization-error (info).
std::vector<Finding> judge(const Measurements& measurements);

nlohmann::json doctor_json(const Measurements& measurements, const std::vector<Finding>& findings);  // doctor.json
std::string doctor_text(const Measurements& measurements, const std::vector<Finding>& findings);     // for people

}  // namespace assay::train
