#include "trainer/grpo/loss.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <cmath>
#include <limits>

#include "tests/catch.h"
#include "trainer/grpo/advantage.h"
#include "trainer/grpo/rollout_gap.h"

using namespace assay::train;

namespace {

at::Tensor row(std::initializer_list<float> values) { return at::tensor(std::vector<float>(values)).unsqueeze(0); }

// One token with the given ratio and advantage: the loss as the formula has it.
double one(double ratio, float advantage, LossOptions options = {}) {
  const auto old = at::zeros({1, 1});
  const auto now = at::full({1, 1}, std::log(ratio));
  return policy_loss(now, old, at::tensor({advantage}), at::ones({1, 1}), options, {1, 1}).loss.item<double>();
}

}  // namespace

TEST_CASE("group advantages") {
  const std::vector<double> rewards{1, 0, 0, 1, 1, 1, 1, 1};
  const auto a = group_advantages(rewards, 4, AdvantageKind::std);
  CHECK(a[0] == Approx(0.5 / (std::sqrt(1.0 / 3) + 1e-6)));
  CHECK(a[1] == Approx(-a[0]));
  for (int i = 4; i < 8; ++i) CHECK(a[i] == 0);
  const auto d = group_advantages(rewards, 4, AdvantageKind::dr_grpo);
  CHECK(d[0] == 0.5);
  CHECK(has_spread(rewards, 4, 0));
  CHECK_FALSE(has_spread(rewards, 4, 1));
  // A group of one has mean 0 and std 1.
  CHECK(group_advantages({1, 0}, 1, AdvantageKind::std)[0] == Approx(1.0 / (1 + 1e-6)));
  CHECK(group_advantages({1, 0}, 1, AdvantageKind::dr_grpo)[0] == 1.0);
}

TEST_CASE("clipping, low and high and dual") {
  LossOptions options;
  options.clip_low = 0.2;
  options.clip_high = 0.28;
  CHECK(one(1.0, 2.0, options) == Approx(-2.0));
  CHECK(one(1.5, 2.0, options) == Approx(-2.0 * 1.28));   // clipped high
  CHECK(one(0.5, 2.0, options) == Approx(-2.0 * 0.5));    // below is not clipped for A > 0
  CHECK(one(0.5, -2.0, options) == Approx(2.0 * 0.8));    // clipped low
  CHECK(one(2.0, -2.0, options) == Approx(2.0 * 2.0));
  CHECK(one(10.0, -2.0, options) == Approx(2.0 * 3.0));   // dual clip
  CHECK(one(1e30, -2.0, options) == Approx(2.0 * 3.0));   // log-ratio kept within 20
}

TEST_CASE("a clipped token has no gradient, the others have") {
  auto now = row({0.5F, 0.0F, -0.5F}).clone().requires_grad_(true);
  const auto result = policy_loss(now, at::zeros({1, 3}), at::tensor({1.0F}), at::ones({1, 3}), {}, {3, 1});
  result.loss.backward();
  const auto gradient = now.grad();
  CHECK(gradient[0][0].item<float>() == 0.0F);
  CHECK(gradient[0][1].item<float>() == Approx(-1.0 / 3));
  CHECK(gradient[0][2].item<float>() == Approx(-std::exp(-0.5) / 3));
  CHECK(result.clipped == 1);
  CHECK(result.clipped_lower == 0);
  CHECK(result.kl == Approx(0.0).margin(1e-6));
}

TEST_CASE("four aggregations") {
  const auto values = at::tensor({1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F}).view({2, 3});
  const auto mask = at::tensor({1.0F, 1.0F, 1.0F, 1.0F, 0.0F, 0.0F}).view({2, 3});
  const LossScale scale{4, 2};
  const auto get = [&](Aggregation a) { return aggregate(values, mask, a, scale, 10).item<double>(); };
  CHECK(get(Aggregation::token_mean) == Approx(10.0 / 4));
  CHECK(get(Aggregation::seq_mean_token_sum) == Approx((6.0 + 4.0) / 2));
  CHECK(get(Aggregation::seq_mean_token_mean) == Approx((2.0 + 4.0) / 2));
  CHECK(get(Aggregation::seq_mean_token_sum_norm) == Approx((6.0 + 4.0) / 2 / 10));
}

TEST_CASE("micro-batches add up to the mini-batch, whatever their size") {
  at::manual_seed(3);
  const std::int64_t rows = 12, width = 7;
  const auto now = at::randn({rows, width}, at::kDouble), old = now + 0.3 * at::randn({rows, width}, at::kDouble);
  const auto advantages = at::randn({rows}, at::kDouble);
  auto mask = at::zeros({rows, width}, at::kDouble);
  for (std::int64_t r = 0; r < rows; ++r) mask[r].slice(0, 0, 1 + r % width).fill_(1);
  const LossScale scale{mask.sum().item<double>(), static_cast<double>(rows)};
  const LossInputs all{at::randn({rows, width}, at::kDouble), at::rand({rows, width}, at::kDouble),
                       at::rand({rows, width}, at::kDouble)};
  const auto cut = [&](std::int64_t at, std::int64_t end) {
    return LossInputs{all.reference.slice(0, at, end), all.entropy.slice(0, at, end), all.weights.slice(0, at, end)};
  };
  for (const auto* name : {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"})
  for (const auto* kl : {"none", "k1", "k2", "k3"}) {
    LossOptions options;
    options.aggregation = parse_aggregation(name);
    options.horizon = 9;
    if (kl != std::string("none")) {
      options.kl_coef = 0.1;
      options.kl_type = parse_kl_type(kl);
      options.entropy_coef = 0.01;
      options.importance_weights = true;
    }
    const auto whole = policy_loss(now, old, advantages, mask, options, scale, all).loss.item<double>();
    for (const std::int64_t size : {1, 3, 5}) {
      double sum = 0;
      for (std::int64_t at = 0; at < rows; at += size) {
        const auto end = std::min(at + size, rows);
        sum += policy_loss(now.slice(0, at, end), old.slice(0, at, end), advantages.slice(0, at, end),
                           mask.slice(0, at, end), options, scale, cut(at, end))
                   .loss.item<double>();
      }
      CHECK(sum == Approx(whole).epsilon(1e-12));
    }
  }
}

TEST_CASE("KL estimates: value, gradient, and what they do far out") {
  auto now = at::tensor({-1.0, -2.0, -0.5}, at::kDouble).unsqueeze(0).requires_grad_(true);
  const auto reference = at::tensor({-1.5, -1.0, -0.5}, at::kDouble).unsqueeze(0);
  const double d[] = {0.5, -1.0, 0.0};
  for (const auto* name : {"k1", "k2", "k3"}) {
    INFO(name);
    const auto values = kl_estimate(now, reference, parse_kl_type(name));
    now.mutable_grad() = at::Tensor();
    values.sum().backward();
    for (int i = 0; i < 3; ++i) {
      const std::string type = name;
      const double value = type == "k1" ? d[i] : type == "k2" ? d[i] * d[i] / 2 : std::exp(-d[i]) - 1 + d[i];
      const double slope = type == "k1" ? 1 : type == "k2" ? d[i] : 1 - std::exp(-d[i]);
      CHECK(values[0][i].item<double>() == Approx(value).margin(1e-15));
      CHECK(now.grad()[0][i].item<double>() == Approx(slope).margin(1e-15));
    }
  }
  // A token that the reference all but rules out: finite.
  const auto far = kl_estimate(row({-1e4F}), row({0.0F}), KlType::k3);
  CHECK(far.item<double>() == Approx(std::exp(20.0) - 1 - 20));
}

TEST_CASE("the loss is policy + kl_coef KL - entropy_coef entropy, all aggregated alike; weights scale the policy's alone") {
  at::manual_seed(5);
  const auto now = at::randn({3, 4}, at::kDouble), old = at::randn({3, 4}, at::kDouble), a = at::randn({3}, at::kDouble);
  auto mask = at::ones({3, 4}, at::kDouble);
  mask[1].slice(0, 2).fill_(0);
  const LossScale scale{10, 3};
  LossInputs more{at::randn({3, 4}, at::kDouble), at::rand({3, 4}, at::kDouble), at::rand({3, 4}, at::kDouble) + 0.5};
  for (const auto* name : {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"}) {
    LossOptions plain;
    plain.aggregation = parse_aggregation(name);
    plain.horizon = 4;
    LossOptions all = plain;
    all.kl_coef = 0.3;
    all.kl_type = KlType::k2;
    all.entropy_coef = 0.7;
    const auto together = [&](const at::Tensor& values) {
      return aggregate(values, mask, plain.aggregation, scale, plain.horizon).item<double>();
    };
    const auto policy = policy_loss(now, old, a, mask, plain, scale).loss.item<double>();
    const auto result = policy_loss(now, old, a, mask, all, scale, more);
    CHECK(result.policy == Approx(policy));
    CHECK(result.kl_loss == Approx(together((now - more.reference).square() / 2)));
    CHECK(result.entropy_loss == Approx(together(more.entropy)));
    CHECK(result.loss.item<double>() == Approx(policy + 0.3 * result.kl_loss - 0.7 * result.entropy_loss));
    all.importance_weights = true;
    LossInputs ones = more;
    ones.weights = at::full({3, 4}, 1.5, at::kDouble);
    const auto weighted = policy_loss(now, old, a, mask, all, scale, ones);
    CHECK(weighted.policy == Approx(1.5 * policy));
    CHECK(weighted.kl_loss == Approx(result.kl_loss));
  }
}

TEST_CASE("importance weights are truncated, and the gap's figures follow from them") {
  const auto trained = row({-1.0F, -1.0F, -3.0F, 0.0F}), sampled = row({-1.0F, -2.0F, -2.0F, 0.0F});
  const auto mask = row({1, 1, 1, 0});
  const auto weights = importance_weights(trained, sampled, 2.0);
  const double e = std::exp(1.0);
  CHECK(weights[0][0].item<double>() == Approx(1));
  CHECK(weights[0][1].item<double>() == Approx(2));
  CHECK(weights[0][2].item<double>() == Approx(1 / e));
  RolloutGap gap({});
  gap.add(trained, sampled, mask);
  Metrics metrics;
  gap.report(metrics);
  CHECK(metrics.at("rollout_corr/kl") == Approx(0).margin(1e-12));
  CHECK(metrics.at("rollout_corr/k3_kl") == Approx((e - 2 + 1 / e) / 3));
  CHECK(metrics.at("rollout_corr/chi2_token") == Approx((1 + e * e + 1 / e / e) / 3 - 1));
  const double sum = 3 + 1 / e, squares = 1 + 4 + 1 / e / e;
  CHECK(metrics.at("rollout_corr/rollout_is_mean") == Approx(sum / 3));
  CHECK(metrics.at("rollout_corr/rollout_is_max") == Approx(2));
  CHECK(metrics.at("rollout_corr/rollout_is_eff_sample_size") == Approx(sum * sum / 3 / squares));
  CHECK(metrics.at("rollout_corr/rollout_is_ratio_fraction_high") == Approx(1.0 / 3));
  Metrics none;
  RolloutGap({}).report(none);
  CHECK(none.empty());
}

TEST_CASE("what lies under the padding is never looked at") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto mask = row({1, 0});
  const auto result = policy_loss(row({0.1F, nan}), row({0.0F, nan}), at::tensor({1.0F}), mask, {}, {1, 1});
  CHECK(std::isfinite(result.loss.item<double>()));
  CHECK(std::isfinite(result.kl));
  CHECK(std::isfinite(result.ratio_deviation));
}

TEST_CASE("a NaN log-prob makes the loss NaN, so that the loop can stop") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto result = policy_loss(row({nan}), row({0.0F}), at::tensor({1.0F}), row({1}), {}, {1, 1});
  CHECK(std::isnan(result.loss.item<double>()));
}
