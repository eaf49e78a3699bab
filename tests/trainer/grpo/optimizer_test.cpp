#include "trainer/grpo/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "tests/catch.h"

using namespace assay::train;

namespace {

std::vector<NamedTensor> two() {
  return {{"a", at::tensor({1.0F, -2.0F}).requires_grad_(true)}, {"b", at::tensor({3.0F}).requires_grad_(true)}};
}

void set_gradient(const NamedTensor& parameter, const at::Tensor& gradient) {
  at::Tensor tensor = parameter.tensor;
  tensor.mutable_grad() = gradient;
}

}  // namespace

TEST_CASE("warm-up as verl counts it") {
  assay::spec::OptimizerConfig config;
  config.lr = 1e-3;
  config.warmup_steps = 10;
  CHECK(learning_rate(config, 1, 100) == 0);
  CHECK(learning_rate(config, 2, 100) == Approx(1e-4));
  CHECK(learning_rate(config, 11, 100) == Approx(1e-3));
  CHECK(learning_rate(config, 100, 100) == Approx(1e-3));
  config.warmup_steps = 0;
  CHECK(learning_rate(config, 1, 100) == Approx(1e-3));
}

TEST_CASE("linear and cosine schedules behind the warm-up, down to a share of the rate") {
  assay::spec::OptimizerConfig config;
  config.lr = 1e-3;
  config.warmup_steps = 4;
  config.min_lr_ratio = 0.1;
  for (const auto* schedule : {"linear", "cosine"}) {
    config.schedule = schedule;
    const bool linear = schedule == std::string("linear");
    CHECK(learning_rate(config, 1, 24) == 0);
    CHECK(learning_rate(config, 3, 24) == Approx(5e-4));
    CHECK(learning_rate(config, 5, 24) == Approx(1e-3));
    CHECK(learning_rate(config, 10, 24) == Approx(1e-3 * (0.1 + 0.9 * (linear ? 0.75 : 0.5 + 0.5 * std::cos(M_PI / 4)))));
    CHECK(learning_rate(config, 15, 24) == Approx(1e-3 * 0.55));
    CHECK(learning_rate(config, 25, 24) == Approx(1e-4));  // the end of the curve lies behind the last step
    CHECK(learning_rate(config, 24, 24) > 1e-4);
  }
}

TEST_CASE("AdamW's first step, by hand") {
  assay::spec::OptimizerConfig config;
  config.weight_decay = 0.1;
  config.grad_clip = 0;
  Optimizer optimizer(two(), config);
  const auto& parameters = optimizer.parameters();
  set_gradient(parameters[0], at::tensor({0.5F, -4.0F}));
  set_gradient(parameters[1], at::tensor({0.0F}));
  const auto gradients = optimizer.gradients();
  CHECK(gradients.norm == Approx(std::sqrt(0.25 + 16)));
  CHECK(gradients.non_zero == std::vector<bool>{true, false});
  const auto before = optimizer.state().parameters;
  optimizer.step(0.01, gradients.norm);
  // At step 1 the update is lr * sign(g), and the decay lr * wd * w comes before it.
  CHECK(parameters[0].tensor[0].item<float>() == Approx(1.0 - 0.001 * 1.0 - 0.01));
  CHECK(parameters[0].tensor[1].item<float>() == Approx(-2.0 + 0.001 * 2.0 + 0.01));
  CHECK(parameters[1].tensor[0].item<float>() == Approx(3.0 - 0.001 * 3.0));
  CHECK(optimizer.distance(before) > 0);
}

TEST_CASE("clipping by the total norm scales all gradients alike, and a small one not at all") {
  assay::spec::OptimizerConfig config;
  config.grad_clip = 1;
  Optimizer optimizer(two(), config);
  set_gradient(optimizer.parameters()[0], at::tensor({3.0F, 0.0F}));
  set_gradient(optimizer.parameters()[1], at::tensor({4.0F}));
  auto gradients = optimizer.gradients();
  CHECK(gradients.norm == Approx(5.0));
  optimizer.step(0, gradients.norm);
  CHECK(optimizer.parameters()[0].tensor.grad()[0].item<float>() == Approx(0.6).epsilon(1e-5));
  CHECK(optimizer.parameters()[1].tensor.grad()[0].item<float>() == Approx(0.8).epsilon(1e-5));
  set_gradient(optimizer.parameters()[0], at::tensor({0.3F, 0.0F}));
  set_gradient(optimizer.parameters()[1], at::tensor({0.4F}));
  gradients = optimizer.gradients();
  optimizer.step(0, gradients.norm);
  CHECK(optimizer.parameters()[1].tensor.grad()[0].item<float>() == 0.4F);
}

TEST_CASE("no gradient at all, and gradients that are not finite") {
  Optimizer optimizer(two(), {});
  auto gradients = optimizer.gradients();
  CHECK(gradients.norm == 0);
  CHECK(gradients.finite);
  CHECK(gradients.non_zero == std::vector<bool>{false, false});
  set_gradient(optimizer.parameters()[1], at::tensor({std::numeric_limits<float>::infinity()}));
  gradients = optimizer.gradients();
  CHECK_FALSE(gradients.finite);
  optimizer.zero_grad();
  set_gradient(optimizer.parameters()[0], at::tensor({1.0F, std::numeric_limits<float>::quiet_NaN()}));
  CHECK_FALSE(optimizer.gradients().finite);
}
