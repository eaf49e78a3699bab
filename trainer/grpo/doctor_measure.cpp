#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "trainer/grpo/advantage.h"
#include "trainer/grpo/doctor.h"
#include "trainer/grpo/loss.h"
#include "trainer/grpo/seeds.h"

namespace assay::train {
namespace {

struct Sampled {
  std::vector<std::vector<std::int32_t>> prompts;
  Rollout rollout;
};

Sampled sample_groups(Session& session, std::int64_t count, Measurements& result) {
  const auto seed = static_cast<std::uint64_t>(session.config.train.seed);
  DataOrder order(session.train.problems.size(), seed);
  const auto problems = order.next(count);
  Sampled sampled;
  for (const auto problem : problems) sampled.prompts.push_back(session.train.prompts[problem]);
  session.decoder->set_phase(Phase::rollout);
  sampled.rollout = sample(*session.decoder, sampled.prompts, session.sampling(derive_seed(seed, 0, Purpose::doctor)));

  const std::int64_t group = session.config.rollout.samples_per_prompt;
  std::vector<double> scores;
  for (std::size_t row = 0; row < sampled.rollout.responses.size(); ++row) {
    const auto& gold = session.train.problems[problems[row / static_cast<std::size_t>(group)]].gold;
    scores.push_back(score(session.scorer, session.completion(sampled.rollout.responses[row]), gold).score);
    result.mean_score += scores.back();
  }
  result.mean_score /= static_cast<double>(scores.size());
  result.groups = count;
  for (std::int64_t g = 0; g < count; ++g) result.groups_with_spread += has_spread(scores, group, g);
  return sampled;
}

// Sums of an activation quantizer's input and error, over all of its calls.
struct ErrorSums {
  double x2 = 0, error2 = 0, non_zero = 0, dead = 0;
};

void measure_errors_and_gap(Session& session, const Sampled& sampled, Measurements& result) {
  const at::NoGradGuard no_grad;
  auto& decoder = *session.decoder;
  const auto& config = session.config;
  const auto forward = [&](Phase phase) {
    decoder.set_phase(phase);
    return token_logprobs(decoder, sampled.prompts, sampled.rollout.responses, config.rollout.samples_per_prompt,
                          config.rollout.temperature);
  };

  std::map<std::string, ErrorSums> sums;
  decoder.set_observer([&](const std::string& module, const at::Tensor& x, const at::Tensor& xq) {
    const at::NoGradGuard inner;
    const auto exact = x.detach().to(at::kDouble), rounded = xq.detach().to(at::kDouble);
    auto& sum = sums[module];
    sum.x2 += exact.square().sum().item<double>();
    sum.error2 += (rounded - exact).square().sum().item<double>();
    const auto alive = exact != 0;
    sum.non_zero += alive.sum().item<double>();
    sum.dead += alive.logical_and(rounded == 0).sum().item<double>();
  });
  const TokenLogprobs trained = forward(Phase::training);
  if (config.quant.apply_during == "rollout") forward(Phase::rollout);
  decoder.set_observer({});

  for (const auto& module : result.report.modules) {
    ModuleError error{module.name, module.weight ? module.weight_sqnr_db : 0.0};
    if (const auto found = sums.find(module.name); found != sums.end() && found->second.x2 > 0) {
      const auto& sum = found->second;
      error.activation = true;
      error.activation_sqnr_db = 10 * std::log10(sum.x2 / sum.error2);
      error.dead_share = sum.non_zero > 0 ? sum.dead / sum.non_zero : 0;
    }
    result.errors.push_back(error);
  }

  const auto logprobs = trained.logprobs.contiguous();
  const auto rows = logprobs.accessor<float, 2>();
  for (std::size_t r = 0; r < sampled.rollout.logprobs.size(); ++r)
    for (std::size_t t = 0; t < sampled.rollout.logprobs[r].size(); ++t) {
      const double d = static_cast<double>(rows[static_cast<std::int64_t>(r)][static_cast<std::int64_t>(t)]) -
                       static_cast<double>(sampled.rollout.logprobs[r][t]);
      result.gap_mean += std::abs(d);
      result.gap_max = std::max(result.gap_max, std::abs(d));
      result.gap_k3 += std::exp(std::clamp(d, -20.0, 20.0)) - 1 - std::clamp(d, -20.0, 20.0);
      ++result.tokens;
    }
  result.gap_mean /= static_cast<double>(std::max<std::int64_t>(result.tokens, 1));
  result.gap_k3 /= static_cast<double>(std::max<std::int64_t>(result.tokens, 1));
}

std::string projection_of(std::string tensor) {
  for (const std::string prefix : {"base_model.model."})
    if (tensor.starts_with(prefix)) tensor.erase(0, prefix.size());
  return tensor.substr(0, tensor.find(".lora_"));
}

void measure_gradients(Session& session, const Sampled& sampled, Measurements& result) {
  auto& decoder = *session.decoder;
  const auto adapter = decoder.adapter();
  std::vector<at::Tensor> saved;
  for (const auto& parameter : adapter) saved.push_back(parameter.tensor.detach().clone());
  {
    const at::NoGradGuard no_grad;
    auto random = at::detail::createCPUGenerator(
        derive_seed(static_cast<std::uint64_t>(session.config.train.seed), 1, Purpose::doctor));
    for (const auto& parameter : adapter)
      if (parameter.name.find(".lora_B.") != std::string::npos) parameter.tensor.normal_(0.0, 0.02, random);
  }

  const std::int64_t group = session.config.rollout.samples_per_prompt;
  const std::size_t prompts = std::min<std::size_t>(4, sampled.prompts.size());
  const std::size_t rows = prompts * static_cast<std::size_t>(group);
  const std::vector<std::vector<std::int32_t>> few(sampled.prompts.begin(), sampled.prompts.begin() + static_cast<std::ptrdiff_t>(prompts)),
      responses(sampled.rollout.responses.begin(), sampled.rollout.responses.begin() + static_cast<std::ptrdiff_t>(rows));
  decoder.set_phase(Phase::training);
  const TokenLogprobs now = token_logprobs(decoder, few, responses, group, session.config.rollout.temperature);
  std::vector<float> advantages;  // both signs, no two rows alike, so that nothing cancels
  for (std::size_t r = 0; r < rows; ++r)
    advantages.push_back((r % 2 ? -1.0F : 1.0F) * (1.0F + 0.1F * static_cast<float>(r % 7)));
  LossScale scale{now.mask.sum().item<double>(), static_cast<double>(rows)};
  const PolicyLoss loss = policy_loss(now.logprobs, now.logprobs.detach(), at::tensor(advantages), now.mask,
                                      LossOptions::from(session.config), scale);
  if (loss.loss.requires_grad()) loss.loss.backward();

  for (std::size_t i = 0; i < adapter.size(); ++i) {
    auto tensor = adapter[i].tensor;
    TensorGradient seen{adapter[i].name, projection_of(adapter[i].name)};
    if (tensor.grad().defined()) {
      const double largest = tensor.grad().abs().max().item<double>();
      seen.non_zero = largest != 0;
      seen.finite = std::isfinite(largest);
    }
    result.gradients.push_back(seen);
    const at::NoGradGuard no_grad;
    tensor.mutable_grad() = at::Tensor();
    tensor.copy_(saved[i]);
  }
}

}  // namespace

Measurements measure(Session& session, std::int64_t prompts) {
  const auto started = std::chrono::steady_clock::now();
  Measurements result;
  result.config = session.config;
  result.report = session.report;
  result.trained_quant = session.trained_quant();
  result.evaluated_quant = session.evaluated_quant();
  const Phase before = session.decoder->phase();
  const Sampled sampled = sample_groups(session, std::min(prompts, session.config.grpo.train_batch_size), result);
  measure_errors_and_gap(session, sampled, result);
  measure_gradients(session, sampled, result);
  session.decoder->set_phase(before);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return result;
}

}  // namespace assay::train
