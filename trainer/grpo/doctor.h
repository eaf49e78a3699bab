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

// Why a tensor has no gradient, found out by running the same batch again with another activation quantizer.
enum class Gap : std::uint8_t {
  none,         // it has one
  estimator,    // with a straight-through estimator behind every quantizer it has one
  rounding,     // also not then, but with the quantizers taken out: what it multiplies is rounded to zero
  unreachable,  // not even without quantizers: nothing of it reaches the loss
};
const char* name(Gap gap);

struct TensorGradient {
  std::string tensor;      // PEFT's name
  std::string projection;  // model.layers.0.self_attn.q_proj
  bool non_zero = false, finite = true;
  Gap gap = Gap::none;
};

struct ModuleError {       // signal to quantization noise, 10 log10(sum x² / sum (xq - x)²)
  std::string module;
  double weight_sqnr_db = 0;      // 0: the weight is not quantized
  bool activation = false;        // an activation quantizer ran, and the two below mean something
  double activation_sqnr_db = 0;
  double dead_share = 0;          // non-zero values that became zero
};

// The residual stream behind a layer, quantized against unquantized: all of the error that has come together so far.
struct LayerError {
  std::int64_t layer = 0;
  double residual_sqnr_db = 0;
};

// The first updates as the run would make them, at its full learning rate, on the sampled groups.
struct FirstUpdate {
  std::int64_t covered = 0;            // adapter tensors with a gradient
  double grad_norm = 0, update_norm = 0, weight_norm = 0;
  double logprob_change = 0;           // mean |change| of the log-prob of the tokens trained on
  double outside_clip = 0;             // share of them whose ratio left [1 - clip_ratio_low, 1 + clip_ratio_high]
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
  double gap_phase = 0;                    // mean |difference| between the two phases on the same batch: apply_during
  double gap_batch = 0;                    // the rest: the sampler's batch against the trainer's, in the same phase
  double gradient_error = -1;              // quant.backward = "fp4": norm of the difference to fp32's gradient / its norm;
  double gradient_cosine = 0;              // and the cosine between the two. -1: not measured
  double ratio_deviation = 0;              // max |ratio - 1| before any update: the same forward twice
  std::int64_t responses = 0, truncated = 0;  // sampled; of them cut at max_response_length
  std::vector<std::string> never_ran;      // modules with an activation quantizer that no forward pass called
  std::vector<std::string> left_out;       // projections without any quantizer, where others have one
  std::int64_t rounded_again = 0;          // activation quantizers whose input was rounded already: they changed nothing
  std::vector<LayerError> layers;          // empty: not quantized, or there are no unquantized weights to compare with
  std::vector<FirstUpdate> updates;
  bool made_up_rewards = false;            // of the updates: no group had a spread
  bool random_weights = false;
  double seconds = 0, peak_memory_gb = 0;
};

// Samples up to `prompts` groups, compares the sampler's log-probs with the training forward's, follows the residual
// stream with and without quantizers, differentiates a made-up loss with every B random and advantages of both signs (with
// B zero, as at the start, no A has a gradient whatever the quantizer does), and makes two updates. The adapters are left
// as they were, bit for bit. Cost: about two training steps of that many prompts.
Measurements measure(Session& session, std::int64_t prompts = 16);

// The same for a session of random weights (open_random_session): random prompts and made-up rewards, 2 prompts of 2
// samples of 16 tokens, so that everything but the rewards can be looked at before the weights are there.
Measurements measure_random(Session& session);

// Ids: ste-missing-pre, ste-missing-post, ste-broken, gradient-missing, gradient-not-finite, quantizer-never-ran (errors);
// quantized-twice, rollout-differs, rollout-gap, ratio-not-one, eval-differs, no-reward-spread, responses-cut, large-error,
// falls-apart, gradient-biased, lr-large, lr-small (warnings); coverage, left-out, rollout-same, reward-spread,
// quantization-error, gradient-rounded, layer-error, first-updates (info).
std::vector<Finding> judge(const Measurements& measurements);

nlohmann::json doctor_json(const Measurements& measurements, const std::vector<Finding>& findings);  // doctor.json
std::string doctor_text(const Measurements& measurements, const std::vector<Finding>& findings);     // for people

}  // namespace assay::train
