#include "trainer/grpo/loss.h"

#include <ATen/ATen.h>

#include <cassert>

namespace assay::train {

Aggregation parse_aggregation(std::string_view name) {
  if (name == "seq-mean-token-sum") return Aggregation::seq_mean_token_sum;
  if (name == "seq-mean-token-mean") return Aggregation::seq_mean_token_mean;
  if (name == "seq-mean-token-sum-norm") return Aggregation::seq_mean_token_sum_norm;
  assert(name == "token-mean");
  return Aggregation::token_mean;
}

KlType parse_kl_type(std::string_view name) {
  if (name == "k1") return KlType::k1;
  if (name == "k2") return KlType::k2;
  assert(name == "k3");
  return KlType::k3;
}

LossOptions LossOptions::from(const spec::Config& config) {
  const auto& grpo = config.grpo;
  LossOptions options;
  options.clip_low = grpo.clip_ratio_low;
  options.clip_high = grpo.clip_ratio_high;
  options.clip_c = grpo.clip_ratio_c;
  options.aggregation = parse_aggregation(grpo.loss_agg);
  options.horizon = static_cast<double>(config.rollout.max_response_length);
  options.kl_coef = grpo.kl_coef;
  options.kl_type = parse_kl_type(grpo.kl_type);
  options.entropy_coef = grpo.entropy_coef;
  options.importance_weights = grpo.rollout_is == "token";
  options.weight_cap = grpo.tis_cap;
  return options;
}

at::Tensor kl_estimate(const at::Tensor& logprobs, const at::Tensor& reference, KlType type) {
  const auto d = logprobs - reference;
  if (type == KlType::k1) return d;
  if (type == KlType::k2) return d * d / 2;
  // (exp(-d) - 1) + d loses all digits of a small d; expm1 does not.
  const auto kept = d.clamp(-20.0, 20.0);
  return at::expm1(-kept) + kept;
}

at::Tensor aggregate(const at::Tensor& values, const at::Tensor& mask, Aggregation aggregation, const LossScale& scale,
                     double horizon) {
  // where, not a product: what lies under the padding may be anything, NaN included.
  const auto kept = at::where(mask > 0, values, at::zeros({}, values.options()));
  if (aggregation == Aggregation::token_mean) return kept.sum() / scale.tokens;
  auto rows = kept.sum(1);
  if (aggregation == Aggregation::seq_mean_token_mean) rows = rows / mask.sum(1).clamp_min(1);
  auto mean = rows.sum() / scale.sequences;
  return aggregation == Aggregation::seq_mean_token_sum_norm ? mean / horizon : mean;
}

PolicyLoss policy_loss(const at::Tensor& logprobs, const at::Tensor& old_logprobs, const at::Tensor& advantages,
                       const at::Tensor& mask, const LossOptions& options, const LossScale& scale,
                       const LossInputs& more) {
  const auto difference = (logprobs - old_logprobs).clamp(-20.0, 20.0);
  const auto ratio = difference.exp();
  const auto a = advantages.unsqueeze(1);
  const auto plain = -a * ratio;
  const auto clipped = -a * ratio.clamp(1.0 - options.clip_low, 1.0 + options.clip_high);
  const auto higher = at::maximum(plain, clipped);
  const auto bound = -a * options.clip_c;
  auto loss = at::where(a < 0, at::minimum(higher, bound), higher);
  if (options.importance_weights) loss = loss * more.weights;

  PolicyLoss result;
  const auto together = [&](const at::Tensor& values) {
    return aggregate(values, mask, options.aggregation, scale, options.horizon);
  };
  result.loss = together(loss);
  result.policy = result.loss.item<double>();
  if (options.kl_coef > 0) {
    const auto kl = together(kl_estimate(logprobs, more.reference, options.kl_type));
    result.kl_loss = kl.item<double>();
    result.loss = result.loss + kl * options.kl_coef;
  }
  if (options.entropy_coef > 0) {
    const auto entropy = together(more.entropy);
    result.entropy_loss = entropy.item<double>();
    result.loss = result.loss - entropy * options.entropy_coef;
  }
  const auto on = mask > 0;
  const auto sum = [&](const at::Tensor& values) {
    return at::where(on, values.detach().to(at::kDouble), 0.0).sum().item<double>();
  };
  result.kl = sum(-difference);
  result.clipped = sum(clipped > plain);
  result.clipped_lower = sum((higher > bound).logical_and(a < 0));
  result.ratio = sum(ratio);
  result.ratio_deviation = at::where(on, (ratio.detach() - 1).abs(), 0.0).max().item<double>();
  return result;
}

}  // namespace assay::train
