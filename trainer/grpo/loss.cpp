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

LossOptions LossOptions::from(const spec::Config& config) {
  return {config.grpo.clip_ratio_low, config.grpo.clip_ratio_high, config.grpo.clip_ratio_c,
          parse_aggregation(config.grpo.loss_agg), static_cast<double>(config.rollout.max_response_length)};
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
                       const at::Tensor& mask, const LossOptions& options, const LossScale& scale) {
  const auto difference = (logprobs - old_logprobs).clamp(-20.0, 20.0);
  const auto ratio = difference.exp();
  const auto a = advantages.unsqueeze(1);
  const auto plain = -a * ratio;
  const auto clipped = -a * ratio.clamp(1.0 - options.clip_low, 1.0 + options.clip_high);
  const auto higher = at::maximum(plain, clipped);
  const auto bound = -a * options.clip_c;
  const auto loss = at::where(a < 0, at::minimum(higher, bound), higher);

  PolicyLoss result;
  result.loss = aggregate(loss, mask, options.aggregation, scale, options.horizon);
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
