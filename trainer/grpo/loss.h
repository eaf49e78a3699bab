// The clipped policy-gradient loss with its KL penalty, entropy bonus and importance weights, and the four aggregations
// of all of them, exact over micro-batches.
//
// Dimensions: B rows, R response length (padded). All sums are taken over the mask, and every denominator is that of
// the whole mini-batch (LossScale): the losses of its micro-batches add up to the loss of the whole, whatever their size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "experiments/spec/config.h"

namespace assay::train {

enum class Aggregation : std::uint8_t {
  token_mean,               // sum over tokens / number of tokens (DAPO, verl's default)
  seq_mean_token_sum,       // mean over sequences of the sum over tokens
  seq_mean_token_mean,      // mean over sequences of the mean over tokens (original GRPO)
  seq_mean_token_sum_norm,  // mean over sequences of the sum over tokens / horizon; the horizon is
                            // max_response_length, a constant, as Dr.GRPO asks
};
Aggregation parse_aggregation(std::string_view name);  // as GrpoConfig.loss_agg names them

// Estimates of KL(policy || reference) from a token that the policy drew, d = log-prob - reference's log-prob
// (J. Schulman, "Approximating KL Divergence", 2020).
enum class KlType : std::uint8_t {
  k1,  // d
  k2,  // d^2 / 2
  k3,  // exp(-d) - 1 + d, d clamped to ±20
};
KlType parse_kl_type(std::string_view name);  // as GrpoConfig.kl_type names them

struct LossOptions {
  double clip_low = 0.2, clip_high = 0.2;  // ratio kept in [1 - low, 1 + high]
  double clip_c = 3.0;                     // dual clip: a negative advantage's loss is at most c * |A|
  Aggregation aggregation = Aggregation::token_mean;
  double horizon = 1;
  double kl_coef = 0;
  KlType kl_type = KlType::k3;
  double entropy_coef = 0;
  bool importance_weights = false;         // grpo.rollout_is = "token"
  double weight_cap = 2;
  static LossOptions from(const spec::Config& config);
};

struct LossScale {            // of the whole mini-batch
  double tokens = 0;          // mask ones
  double sequences = 0;       // rows with at least one token
};

// Weighted sum of values [B, R] under mask [B, R] as `aggregation` says. Differentiable; scalar.
at::Tensor aggregate(const at::Tensor& values, const at::Tensor& mask, Aggregation aggregation, const LossScale& scale,
                     double horizon);

// Of each token, differentiable. All [B, R].
at::Tensor kl_estimate(const at::Tensor& logprobs, const at::Tensor& reference, KlType type);

// What else the loss may be made of, [B, R]; undefined where the options do not ask for it.
struct LossInputs {
  at::Tensor reference;  // log-probs of the reference model: kl_coef > 0
  at::Tensor entropy;    // of the policy, differentiable: entropy_coef > 0
  at::Tensor weights;    // importance weights, detached: importance_weights
};

struct PolicyLoss {
  at::Tensor loss;            // scalar, this micro-batch's share of the mini-batch's loss:
                              // policy + kl_coef * kl_loss - entropy_coef * entropy
  double policy = 0, kl_loss = 0, entropy_loss = 0;  // those three, aggregated alike
  // Sums over the mask, detached: divided by tokens they are verl's actor/ppo_kl, pg_clipfrac, pg_clipfrac_lower.
  double kl = 0, clipped = 0, clipped_lower = 0;
  double ratio = 0, ratio_deviation = 0;  // sum of the ratio; max |ratio - 1|
};

// logprobs (with gradient), old_logprobs, mask: [B, R]; advantages: [B]. With d = clamp(logprobs - old, -20, 20) and
// ratio r = exp(d): L = max(-A r, -A clamp(r, 1 - low, 1 + high)), and for A < 0 L = min(L, -A c); times the importance
// weight, where there is one.
PolicyLoss policy_loss(const at::Tensor& logprobs, const at::Tensor& old_logprobs, const at::Tensor& advantages,
                       const at::Tensor& mask, const LossOptions& options, const LossScale& scale,
                       const LossInputs& more = {});

}  // namespace assay::train
