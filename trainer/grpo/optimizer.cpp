#include "trainer/grpo/optimizer.h"

#include <ATen/ATen.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace assay::train {

struct Optimizer::Impl {
  torch::optim::AdamW adamw;
};

namespace {

std::vector<at::Tensor> tensors_of(const std::vector<NamedTensor>& parameters) {
  std::vector<at::Tensor> tensors;
  for (const auto& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

at::Tensor squares(const at::Tensor& tensor) { return tensor.detach().to(at::kDouble).square().sum(); }

// Numbers on their way to the host, all by one copy: a device is waited for once and not for each.
std::vector<double> read(const std::vector<at::Tensor>& numbers) {
  if (numbers.empty()) return {};
  const at::Tensor all = at::stack(numbers).to(at::kCPU);
  return {all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel()};
}

double total_norm(const std::vector<at::Tensor>& squares_of) {
  double sum = 0;
  for (const double value : read(squares_of)) sum += value;
  return std::sqrt(sum);
}

}  // namespace

double learning_rate(const spec::OptimizerConfig& config, std::int64_t step, std::int64_t steps) {
  const auto done = static_cast<double>(step - 1), warmup = static_cast<double>(config.warmup_steps);
  if (done < warmup) return config.lr * (done / warmup);
  if (config.schedule == "constant") return config.lr;
  const double progress = std::clamp((done - warmup) / std::max(1.0, static_cast<double>(steps) - warmup), 0.0, 1.0);
  const double left = config.schedule == "linear" ? 1 - progress : (1 + std::cos(std::numbers::pi * progress)) / 2;
  return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left);
}

Optimizer::Optimizer(std::vector<NamedTensor> parameters, const spec::OptimizerConfig& config)
    : parameters_(std::move(parameters)),
      config_(config),
      impl_(new Impl{torch::optim::AdamW(tensors_of(parameters_), torch::optim::AdamWOptions(config.lr)
                                                                      .betas({config.beta1, config.beta2})
                                                                      .eps(config.eps)
                                                                      .weight_decay(config.weight_decay))}) {}
Optimizer::~Optimizer() = default;
Optimizer::Optimizer(Optimizer&&) noexcept = default;

void Optimizer::zero_grad() { impl_->adamw.zero_grad(/*set_to_none=*/true); }

Gradients Optimizer::gradients() const {
  Gradients result;
  std::vector<at::Tensor> numbers;  // of each tensor that has a gradient: the largest, and the sum of squares
  for (const auto& parameter : parameters_) {
    const auto& gradient = parameter.tensor.grad();
    if (!gradient.defined()) continue;
    numbers.push_back(gradient.abs().max().to(at::kDouble));
    numbers.push_back(squares(gradient));
  }
  const std::vector<double> values = read(numbers);
  double sum = 0;
  auto value = values.begin();
  for (const auto& parameter : parameters_) {
    const bool there = parameter.tensor.grad().defined();
    const double largest = there ? *value++ : 0.0, square = there ? *value++ : 0.0;
    result.finite = result.finite && std::isfinite(largest);
    result.non_zero.push_back(largest != 0);
    sum += square;
  }
  result.norm = result.finite ? std::sqrt(sum) : std::numeric_limits<double>::quiet_NaN();
  return result;
}

void Optimizer::step(double lr, double norm) {
  const at::NoGradGuard no_grad;
  if (config_.grad_clip > 0) {
    const double factor = config_.grad_clip / (norm + 1e-6);  // as torch.nn.utils.clip_grad_norm_
    if (factor < 1)
      for (const auto& parameter : parameters_)
        if (parameter.tensor.grad().defined()) parameter.tensor.mutable_grad().mul_(factor);
  }
  for (auto& group : impl_->adamw.param_groups()) group.options().set_lr(lr);
  impl_->adamw.step();
}

double Optimizer::parameter_norm() const {
  std::vector<at::Tensor> parts;
  for (const auto& parameter : parameters_) parts.push_back(squares(parameter.tensor));
  return total_norm(parts);
}

double Optimizer::distance(const std::vector<at::Tensor>& parameters) const {
  std::vector<at::Tensor> parts;
  for (std::size_t i = 0; i < parameters_.size(); ++i) parts.push_back(squares(parameters_[i].tensor.detach() - parameters[i]));
  return total_norm(parts);
}

OptimizerState Optimizer::state() const {
  OptimizerState copy;
  const auto& moments = impl_->adamw.state();
  for (const auto& parameter : parameters_) {
    copy.parameters.push_back(parameter.tensor.detach().clone());
    const auto found = moments.find(parameter.tensor.unsafeGetTensorImpl());
    const auto* kept = found == moments.end() ? nullptr : static_cast<torch::optim::AdamWParamState*>(found->second.get());
    copy.steps.push_back(kept ? kept->step() : 0);
    copy.exp_avg.push_back(kept ? kept->exp_avg().clone() : at::Tensor());
    copy.exp_avg_sq.push_back(kept ? kept->exp_avg_sq().clone() : at::Tensor());
  }
  return copy;
}

void Optimizer::restore(const OptimizerState& state) {
  const at::NoGradGuard no_grad;
  auto& moments = impl_->adamw.state();
  moments.clear();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].tensor.copy_(state.parameters[i]);
    if (!state.exp_avg[i].defined()) continue;
    auto kept = std::make_unique<torch::optim::AdamWParamState>();
    kept->step(state.steps[i]);
    kept->exp_avg(state.exp_avg[i].to(parameters_[i].tensor.device(), at::kFloat, false, /*copy=*/true));
    kept->exp_avg_sq(state.exp_avg_sq[i].to(parameters_[i].tensor.device(), at::kFloat, false, /*copy=*/true));
    moments[parameters_[i].tensor.unsafeGetTensorImpl()] = std::move(kept);
  }
}

}  // namespace assay::train
