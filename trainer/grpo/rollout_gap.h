// How far the training forward's log-probs are from the sampler's, and the importance weights that correct for it.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/grpo/loss.h"
#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/ranks.h"

namespace assay::train {

// Truncated importance weights of tokens, min(exp(trained - sampled), cap), the log-ratio clamped to ±20; no gradient.
// trained, sampled: [B, R]; on the padding of both the weight is 1.
at::Tensor importance_weights(const at::Tensor& trained, const at::Tensor& sampled, double cap);

// Sums over the response tokens of a step. With d = training - sampled log-prob, r = exp(d), w = min(r, cap):
// kl = mean(-d) and k3 = mean(r - 1 - d), both estimates of KL(sampler || trainer); chi2 = mean(r^2) - 1; effective
// sample size (sum w)^2 / (n sum w^2), 1 when all weights are equal; and the share of tokens that clipping would act
// on before anything was learned, had the sampler's log-probs been taken as the old ones.
class RolloutGap {
 public:
  explicit RolloutGap(const LossOptions& options) : options_(options) {}
  void add(const at::Tensor& trained, const at::Tensor& sampled, const at::Tensor& mask);  // [B, R] each
  void reduce(Ranks& ranks);            // sums of all ranks
  double largest() const { return largest_; }  // difference of probabilities
  double tokens() const { return tokens_; }
  void report(Metrics& metrics) const;  // rollout_corr/*, training/rollout_probs_diff_*; nothing without tokens

 private:
  LossOptions options_;
  double kl_ = 0, k3_ = 0, squares_ = 0, probability_ = 0, outside_ = 0, largest_ = 0, tokens_ = 0;
  double weights_ = 0, weight_squares_ = 0, largest_weight_ = 0, capped_ = 0;
};

}  // namespace assay::train
