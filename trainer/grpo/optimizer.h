// AdamW with a learning-rate schedule and clipping by the total norm.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/model/decoder.h"

namespace assay::train {

// The learning rate of training step `step` (1-based) of `steps`, as verl and transformers count it: the scheduler starts
// at 0 and advances after each training step. With t = step - 1, during the warm-up lr * t / warmup, so its first step
// moves nothing; behind it, with p = (t - warmup) / (steps - warmup) and m = min_lr_ratio,
//   constant: lr;  linear: lr * (m + (1 - m) (1 - p));  cosine: lr * (m + (1 - m) (1 + cos(pi p)) / 2).
// The last step has t = steps - 1, so it is the one before the end of the curve.
double learning_rate(const spec::OptimizerConfig& config, std::int64_t step, std::int64_t steps);

struct Gradients {
  double norm = 0;             // total 2-norm over all tensors; 0 when none has a gradient
  bool finite = true;
  std::vector<bool> non_zero;  // per tensor, in the order given
};

// Copies of all that an update changes, in the order of the parameters.
struct OptimizerState {
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> exp_avg, exp_avg_sq;  // undefined where a parameter has never been moved
  std::vector<std::int64_t> steps;              // 0 there
};

class Optimizer {
 public:
  Optimizer(std::vector<NamedTensor> parameters, const spec::OptimizerConfig& config);
  ~Optimizer();
  Optimizer(Optimizer&&) noexcept;

  void zero_grad();
  Gradients gradients() const;
  // Clips to grad_clip given the norm that gradients() measured, then moves the parameters that have a gradient.
  void step(double lr, double norm);

  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  double parameter_norm() const;
  double distance(const std::vector<at::Tensor>& parameters) const;  // total 2-norm of what changed since these
  OptimizerState state() const;
  void restore(const OptimizerState& state);  // of an optimizer with the same parameters

 private:
  struct Impl;
  std::vector<NamedTensor> parameters_;
  spec::OptimizerConfig config_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::train
