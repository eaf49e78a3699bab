#include "trainer/grpo/rollout_gap.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <tuple>

namespace assay::train {

at::Tensor importance_weights(const at::Tensor& trained, const at::Tensor& sampled, double cap) {
  return (trained.detach() - sampled).clamp(-20.0, 20.0).exp().clamp_max(cap);
}

void RolloutGap::add(const at::Tensor& trained, const at::Tensor& sampled, const at::Tensor& mask) {
  const auto on = mask > 0;
  const auto sum = [&](const at::Tensor& values) { return at::where(on, values, 0.0).sum().item<double>(); };
  const auto max = [&](const at::Tensor& values) { return at::where(on, values, 0.0).max().item<double>(); };
  const auto d = (trained - sampled).to(at::kDouble).clamp(-20, 20);
  const auto probability = (trained.to(at::kDouble).exp() - sampled.to(at::kDouble).exp()).abs();
  kl_ += sum(-d);
  k3_ += sum(d.exp() - 1 - d);
  probability_ += sum(probability);
  const auto ratio = d.exp(), weight = ratio.clamp_max(options_.weight_cap);
  outside_ += sum((ratio < 1 - options_.clip_low).logical_or(ratio > 1 + options_.clip_high).to(at::kDouble));
  largest_ = std::max(largest_, max(probability));
  squares_ += sum(ratio.square());
  weights_ += sum(weight);
  weight_squares_ += sum(weight.square());
  largest_weight_ = std::max(largest_weight_, max(weight));
  capped_ += sum((ratio > options_.weight_cap).to(at::kDouble));
  tokens_ += on.sum().item<double>();
}

void RolloutGap::reduce(Ranks& ranks) {
  double sums[] = {kl_, k3_, squares_, probability_, outside_, tokens_, weights_, weight_squares_, capped_};
  ranks.sum(sums, std::size(sums));
  std::tie(kl_, k3_, squares_, probability_, outside_, tokens_, weights_, weight_squares_, capped_) =
      std::tie(sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7], sums[8]);
  double largest[] = {largest_, largest_weight_};
  ranks.max(largest, std::size(largest));
  std::tie(largest_, largest_weight_) = std::tie(largest[0], largest[1]);
}

void RolloutGap::report(Metrics& metrics) const {
  if (tokens_ == 0) return;
  metrics["rollout_corr/kl"] = kl_ / tokens_;
  metrics["rollout_corr/k3_kl"] = k3_ / tokens_;
  metrics["rollout_corr/chi2_token"] = squares_ / tokens_ - 1;
  metrics["rollout_corr/ratio_outside_clip"] = outside_ / tokens_;
  metrics["rollout_corr/rollout_is_mean"] = weights_ / tokens_;
  metrics["rollout_corr/rollout_is_max"] = largest_weight_;
  metrics["rollout_corr/rollout_is_eff_sample_size"] = weights_ * weights_ / (tokens_ * weight_squares_);
  metrics["rollout_corr/rollout_is_ratio_fraction_high"] = capped_ / tokens_;
  metrics["training/rollout_probs_diff_mean"] = probability_ / tokens_;
  metrics["training/rollout_probs_diff_max"] = largest_;
}

}  // namespace assay::train
