#include <ATen/ATen.h>

#include "trainer/model/aten.h"
#include "trainer/model/graph.h"

namespace assay::train {

namespace {

thread_local bool forced = false;

}  // namespace

bool by_kernels(const at::Tensor& x) { return x.is_cpu() && !forced; }

AtenScope::AtenScope(bool on) : before_(forced) { forced = forced || on; }
AtenScope::~AtenScope() { forced = before_; }

OneResult::OneResult()
    : before_(at::globalContext().deterministicAlgorithms()), warn_(at::globalContext().deterministicAlgorithmsWarnOnly()) {
  at::globalContext().setDeterministicAlgorithms(false, false);
}
OneResult::~OneResult() { at::globalContext().setDeterministicAlgorithms(before_, warn_); }

namespace aten {

namespace {

// The quantized copy of a weight; its gradient goes to the weight itself.
struct MasterNode : torch::autograd::Node {
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override { return {grads[0]}; }
  std::string name() const override { return "StraightThroughWeight"; }
};

at::Tensor operand(const Matrix& weight) {
  const at::Tensor& leaf = weight.leaf();
  if (leaf.is_same(weight.value()) || !any_wants_graph(leaf)) return weight.value();
  at::Tensor value = weight.value().detach();
  hang(value, new_node<MasterNode>(), leaf);
  return value;
}

// The backward of y = x·W^T, whatever multiplied; it sees the gradient quantized where that is asked for. Inputs: x, weight.
struct ProductNode : torch::autograd::Node {
  at::Tensor x, weight;  // x: undefined where the weight wants no gradient
  std::optional<RoundedGradient> rounded;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    const auto as_summed = [&](int axis) { return rounded ? quant::quantize_gradient(dy, rounded->spec, rounded->seed, axis) : dy; };
    at::Tensor dx, dweight;
    if (task_should_compute_output(0)) dx = at::mm(as_summed(1), weight);
    if (task_should_compute_output(1)) dweight = at::mm(as_summed(0).t(), x);
    return {dx, dweight};
  }
  std::string name() const override { return "Product"; }
  void release_variables() override { x = weight = at::Tensor(); }
};

at::Tensor differentiable(at::Tensor y, const at::Tensor& x, const at::Tensor& weight, const std::optional<RoundedGradient>& rounded) {
  if (any_wants_graph(x, weight)) {
    auto node = new_node<ProductNode>();
    if (wants_graph(weight)) node->x = x.detach();
    node->weight = weight.detach();
    node->rounded = rounded;
    hang(y, node, x, weight);
  }
  return y;
}

at::Tensor rounded_product(const at::Tensor& x, const at::Tensor& weight, const RoundedGradient& rounded) {
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = at::mm(x, weight.t());
  }
  return differentiable(y, x, weight, rounded);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps) { return at::rms_norm(x, {x.size(-1)}, w, eps); }

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate) * up; }

// The gradient of a change of type is changed back, so it is rounded too.
at::Tensor bf16_rounded(const at::Tensor& x) { return x.to(at::kBFloat16).to(at::kFloat); }

at::Tensor rotate(const at::Tensor& x, std::int64_t heads, const at::Tensor& cosine, const at::Tensor& sine) {
  const std::vector<at::Tensor> half = x.view({x.size(0), heads, x.size(1) / heads}).chunk(2, 2);
  return at::cat({half[0] * cosine - half[1] * sine, half[1] * cosine + half[0] * sine}, 2).view(x.sizes());
}

at::Tensor low_rank(const at::Tensor& x, LoraPair& lora) {
  return at::mm(at::mm(x, lora.a.value().t()), lora.b.value().t()) * static_cast<double>(lora.scale);
}

at::Tensor linear(const at::Tensor& x, Matrix& weight, const at::Tensor& bias, LoraPair* lora,
                  const std::optional<RoundedGradient>& rounded) {
  at::Tensor y = rounded ? rounded_product(x, operand(weight), *rounded) : at::linear(x, operand(weight), bias);
  if (rounded && bias.defined()) y = y + bias;
  return lora ? y + aten::low_rank(x, *lora) : y;
}

at::Tensor exact_linear(const at::Tensor& x, const quant::ExactOperand& x_operand, Matrix& weight, const quant::ExactOperand& w_operand,
                        const at::Tensor& bias, LoraPair* lora, const std::optional<RoundedGradient>& rounded) {
  at::Tensor y = differentiable(quant::exact_product(x_operand, w_operand), x, operand(weight), rounded);
  if (bias.defined()) y = y + bias;
  return lora ? y + aten::low_rank(x, *lora) : y;
}

}  // namespace aten
}  // namespace assay::train
