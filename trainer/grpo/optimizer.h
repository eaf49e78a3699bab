// AdamW on the adapters, with linear warm-up and clipping by the total norm.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/model/decoder.h"

namespace assay::train {

// The learning rate of training step `step` (1-based) as verl counts it: its scheduler starts at 0 and advances after
// each training step, so step s runs at lr * min((s - 1) / warmup, 1), and the first step of a warm-up moves nothing.
double learning_rate(const spec::OptimizerConfig& config, std::int64_t step);

struct Gradients {
  double norm = 0;             // total 2-norm over all tensors; 0 when none has a gradient
  bool finite = true;
  std::vector<bool> non_zero;  // per tensor, in the order given
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
  std::vector<at::Tensor> snapshot() const;                       // copies
  double distance(const std::vector<at::Tensor>& snapshot) const; // total 2-norm of what changed since

 private:
  struct Impl;
  std::vector<NamedTensor> parameters_;
  spec::OptimizerConfig config_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::train
