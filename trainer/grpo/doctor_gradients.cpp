// The doctor's part that differentiates: coverage with reasons, and the first updates.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

#include "quant/torch/fake_quantize.h"
#include "trainer/grpo/advantage.h"
#include "trainer/grpo/doctor_measure.h"
#include "trainer/grpo/loss.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/seeds.h"

namespace assay::train {
namespace {

// Puts every adapter tensor back when it goes.
class Restore {
 public:
  explicit Restore(const std::vector<NamedTensor>& adapter) : adapter_(adapter) {
    for (const auto& parameter : adapter_) saved_.push_back(parameter.tensor.detach().clone());
  }
  ~Restore() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < adapter_.size(); ++i) {
      auto tensor = adapter_[i].tensor;
      tensor.mutable_grad() = at::Tensor();
      tensor.copy_(saved_[i]);
    }
  }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  std::vector<NamedTensor> adapter_;
  std::vector<at::Tensor> saved_;
};

std::string projection_of(std::string tensor) {
  const std::string prefix = "base_model.model.";
  if (tensor.starts_with(prefix)) tensor.erase(0, prefix.size());
  for (const std::string suffix : {".weight", ".bias"})
    if (tensor.ends_with(suffix)) tensor.resize(tensor.size() - suffix.size());
  return tensor.substr(0, tensor.find(".lora_"));
}

TokenLogprobs forward(Session& session, const Sampled& rows) {
  session.decoder->set_rounding_seed(  // the same pass twice rounds alike, as in an update
      derive_seed(static_cast<std::uint64_t>(session.config.train.seed), 4, Purpose::doctor));
  return token_logprobs(*session.decoder, rows.prompts, rows.rollout.responses, session.config.rollout.samples_per_prompt,
                        session.config.rollout.temperature);
}

LossScale scale_of(const TokenLogprobs& now, const Sampled& rows) {
  LossScale scale;
  scale.tokens = now.mask.sum().item<double>();
  for (const auto& response : rows.rollout.responses) scale.sequences += !response.empty();
  return scale;
}

// Differentiates; false: the loss has no graph.
bool backward(Session& session, const Sampled& rows, const TokenLogprobs& now, const std::vector<float>& advantages) {
  const PolicyLoss loss = policy_loss(now.logprobs, now.logprobs.detach(), at::tensor(advantages).to(now.mask.device()), now.mask,
                                      LossOptions::from(session.config), scale_of(now, rows));
  if (!loss.loss.requires_grad()) return false;
  loss.loss.backward();
  return true;
}

// Both signs, no two rows alike, so that nothing cancels.
std::vector<float> made_up_advantages(std::size_t rows) {
  std::vector<float> advantages;
  for (std::size_t r = 0; r < rows; ++r)
    advantages.push_back((r % 2 ? -1.0F : 1.0F) * (1.0F + 0.1F * static_cast<float>(r % 7)));
  return advantages;
}

double largest_gradient(const at::Tensor& tensor) {
  return tensor.grad().defined() ? tensor.grad().abs().max().item<double>() : 0.0;
}

// Which tensors get a gradient other than zero when `quantizer` stands in for the one attached.
std::vector<bool> reached_with(Session& session, const Sampled& rows, ActivationQuantizer quantizer) {
  auto& decoder = *session.decoder;
  ActivationQuantizer own = decoder.exchange_quantizer(std::move(quantizer));
  const auto adapter = decoder.trainable();
  for (const auto& parameter : adapter) at::Tensor(parameter.tensor).mutable_grad() = at::Tensor();
  try {
    const TokenLogprobs now = forward(session, rows);
    backward(session, rows, now, made_up_advantages(rows.rollout.responses.size()));
  } catch (...) {
    decoder.exchange_quantizer(std::move(own));
    throw;
  }
  decoder.exchange_quantizer(std::move(own));
  std::vector<bool> reached;
  for (const auto& parameter : adapter) reached.push_back(largest_gradient(parameter.tensor) != 0);
  return reached;
}

// How far the adapters' gradients, which the last backward() left, are from those of fp32, all tensors as one vector.
void measure_rounded_gradient(Session& session, const Sampled& rows, Measurements& result) {
  auto& decoder = *session.decoder;
  const auto adapter = decoder.trainable();
  std::vector<at::Tensor> rounded;
  for (const auto& parameter : adapter) {
    rounded.push_back(parameter.tensor.grad().defined() ? parameter.tensor.grad().to(at::kDouble) : at::Tensor());
    at::Tensor(parameter.tensor).mutable_grad() = at::Tensor();
  }
  decoder.set_gradient_rounding(false);
  backward(session, rows, forward(session, rows), made_up_advantages(rows.rollout.responses.size()));
  decoder.set_gradient_rounding(true);
  double difference = 0, size = 0, rounded_size = 0, product = 0;
  for (std::size_t i = 0; i < adapter.size(); ++i) {
    if (!rounded[i].defined() || !adapter[i].tensor.grad().defined()) continue;
    const at::Tensor exact = adapter[i].tensor.grad().to(at::kDouble);
    difference += (rounded[i] - exact).square().sum().item<double>();
    size += exact.square().sum().item<double>();
    rounded_size += rounded[i].square().sum().item<double>();
    product += (rounded[i] * exact).sum().item<double>();
  }
  if (size == 0) return;
  result.gradient_error = std::sqrt(difference / size);
  result.gradient_cosine = rounded_size > 0 ? product / std::sqrt(size * rounded_size) : 0;
}

}  // namespace

Sampled first_groups(const Sampled& all, std::size_t prompts, std::int64_t group) {
  prompts = std::min(prompts, all.prompts.size());
  const auto rows = static_cast<std::ptrdiff_t>(prompts * static_cast<std::size_t>(group));
  Sampled few;
  few.prompts.assign(all.prompts.begin(), all.prompts.begin() + static_cast<std::ptrdiff_t>(prompts));
  few.rollout.responses.assign(all.rollout.responses.begin(), all.rollout.responses.begin() + rows);
  few.scores.assign(all.scores.begin(), all.scores.begin() + rows);
  return few;
}

void measure_gradients(Session& session, const Sampled& sampled, Measurements& result) {
  auto& decoder = *session.decoder;
  const auto adapter = decoder.trainable();
  const Restore restore(adapter);
  {
    const at::NoGradGuard no_grad;
    auto random = at::detail::createCPUGenerator(
        derive_seed(static_cast<std::uint64_t>(session.config.train.seed), 1, Purpose::doctor));
    for (const auto& parameter : adapter)
      if (parameter.name.find(".lora_B.") != std::string::npos)  // drawn on the host: the same on each device
        parameter.tensor.copy_(at::empty(parameter.tensor.sizes(), at::kFloat).normal_(0.0, 0.02, random));
  }
  const Sampled few = first_groups(sampled, 4, session.config.rollout.samples_per_prompt);
  decoder.set_phase(Phase::training);
  const TokenLogprobs now = forward(session, few);
  {
    const at::NoGradGuard no_grad;
    result.ratio_deviation = ((forward(session, few).logprobs - now.logprobs.detach()).exp() - 1).abs().max().item<double>();
  }
  backward(session, few, now, made_up_advantages(few.rollout.responses.size()));

  bool gaps = false;
  for (const auto& parameter : adapter) {
    TensorGradient seen{parameter.name, projection_of(parameter.name)};
    if (parameter.tensor.grad().defined()) {
      const double largest = largest_gradient(parameter.tensor);
      seen.non_zero = largest != 0;
      seen.finite = std::isfinite(largest);
    }
    gaps |= !seen.non_zero;
    result.gradients.push_back(seen);
  }
  if (session.config.quant.backward == "fp4") measure_rounded_gradient(session, few, result);
  if (!gaps) return;
  std::vector<bool> estimated(adapter.size(), false), unrounded = estimated;
  if (!result.report.modules.empty()) {
    estimated = reached_with(session, few, [](const at::Tensor& x, const quant::Spec& spec, bool) {
      return quant::fake_quantize_ste(x, spec, 1);
    });
    unrounded = reached_with(session, few, [](const at::Tensor& x, const quant::Spec&, bool) { return x; });
  }
  for (std::size_t i = 0; i < adapter.size(); ++i)
    if (auto& gradient = result.gradients[i]; !gradient.non_zero)
      gradient.gap = estimated[i] ? Gap::estimator : unrounded[i] ? Gap::rounding : Gap::unreachable;
}

void measure_updates(Session& session, const Sampled& sampled, Measurements& result) {
  auto& decoder = *session.decoder;
  const std::int64_t group = session.config.rollout.samples_per_prompt;
  const LossOptions options = LossOptions::from(session.config);
  // Groups that there is something to learn from.
  Sampled rows;
  for (std::size_t p = 0; p < sampled.prompts.size() && rows.prompts.size() < 4; ++p) {
    if (!has_spread(sampled.scores, group, static_cast<std::int64_t>(p))) continue;
    rows.prompts.push_back(sampled.prompts[p]);
    for (std::int64_t i = 0; i < group; ++i) {
      const std::size_t r = p * static_cast<std::size_t>(group) + static_cast<std::size_t>(i);
      rows.rollout.responses.push_back(sampled.rollout.responses[r]);
      rows.scores.push_back(sampled.scores[r]);
    }
  }
  result.made_up_rewards = result.random_weights || rows.prompts.empty();
  if (rows.prompts.empty()) rows = first_groups(sampled, 4, group);
  std::vector<float> advantages;
  if (result.made_up_rewards) {
    advantages = made_up_advantages(rows.scores.size());
  } else {
    for (const double a : group_advantages(rows.scores, group, parse_advantage(session.config.grpo.advantage)))
      advantages.push_back(static_cast<float>(a));
  }

  const Restore restore(decoder.trainable());
  Optimizer optimizer(decoder.trainable(), session.config.optimizer);
  decoder.set_phase(Phase::training);
  at::Tensor before;
  for (int update = 0; update < 2; ++update) {
    const TokenLogprobs now = forward(session, rows);
    const at::Tensor start = now.logprobs.detach().to(at::kDouble);
    optimizer.zero_grad();
    FirstUpdate seen;
    if (backward(session, rows, now, advantages)) {
      const Gradients gradients = optimizer.gradients();
      const auto kept = optimizer.state().parameters;
      seen.covered = std::count(gradients.non_zero.begin(), gradients.non_zero.end(), true);
      seen.grad_norm = gradients.norm;
      if (gradients.finite) optimizer.step(session.config.optimizer.lr, gradients.norm);
      seen.update_norm = optimizer.distance(kept);
    }
    seen.weight_norm = optimizer.parameter_norm();
    const at::NoGradGuard no_grad;
    const at::Tensor change = (forward(session, rows).logprobs.to(at::kDouble) - start).clamp(-20, 20);
    const at::Tensor on = now.mask > 0, ratio = change.exp();
    const double tokens = std::max(1.0, now.mask.sum().item<double>());
    seen.logprob_change = at::where(on, change.abs(), 0.0).sum().item<double>() / tokens;
    const at::Tensor outside = (ratio < 1 - options.clip_low).logical_or(ratio > 1 + options.clip_high).logical_and(on);
    seen.outside_clip = outside.sum().item<double>() / tokens;
    result.updates.push_back(seen);
  }
}

}  // namespace assay::train
