#include "trainer/model/projection.h"

#include <ATen/ATen.h>

#include <stdexcept>

#include "quant/torch/fake_quantize.h"
#include "quant/torch/hadamard.h"
#include "trainer/model/aten.h"
#include "trainer/profile/profile.h"

namespace assay::train {

namespace {

at::Tensor dropped(const at::Tensor& x, AdapterUse& use) {
  const double kept = 1 - use.dropout;
  const at::Tensor mask = at::empty_like(x).bernoulli_(kept, use.masks).div_(kept);
  return x * mask;
}

}  // namespace

at::Tensor quantized_weight(const at::Tensor& weight, const Quantizers& quantizers, std::uint64_t seed,
                            quant::ErrorStats* stats) {
  quant::Spec spec = quantizers.weight;
  spec.seed = seed;
  if (!quantizers.signs) return quant::fake_quantize(weight, spec, quantizers.weight_axis, stats);
  const at::Tensor rotated = quant::hadamard(weight, *quantizers.signs);
  return quant::inverse_hadamard(quant::fake_quantize(rotated, spec, quantizers.weight_axis, stats), *quantizers.signs);
}

bool multiplies_codes(const Quantizers& quantizers, bool weights, bool activations) {
  return weights && activations && !quantizers.post && !quantizers.signs && !quantizers.bf16;
}

quant::ExactOperand exact_weight(const at::Tensor& weight, const Quantizers& quantizers, std::uint64_t seed) {
  quant::Spec spec = quantizers.weight;
  spec.seed = seed;
  return quant::exact_operand(weight, spec, quantizers.weight_axis);
}

Memo::Entry Projection::quantize(const at::Tensor& x, const char* suffix, Quantizers& quantizers, Memo* memo, With with) const {
  Memo::Entry made;
  Memo::Entry* known = memo ? memo->find(x) : nullptr;
  if (known) {
    made = *known;
  } else {
    const Span span("quantization");
    if (quantizers.activation.rounding == quant::Rounding::stochastic) quantizers.activation.seed = quantizers.next_seed();
    const auto& signs = quantizers.signs;
    made.x = x;
    made.seed = quantizers.activation.seed;
    // Zeros add nothing to a tensor's maximum.
    const at::Tensor input =
        quantizers.ended.defined() && quantizers.activation.scope == quant::Scope::tensor ? x.masked_fill(quantizers.ended, 0.0) : x;
    made.seen = signs ? quantizers.flow(quant::hadamard(input, *signs)) : input;
    made.to = quantizers.flow(quantizers.quantize(made.seen, quantizers.activation, quantizers.ste));
    made.result = signs ? quantizers.flow(quant::inverse_hadamard(made.to, *signs)) : made.to;
  }
  if (with == With::operand && !made.operand.defined()) {
    const Span span("quantization");
    quant::Spec spec = quantizers.activation;
    spec.seed = made.seed;
    made.operand = quant::exact_operand(made.seen, spec);
    if (known) *known = made;
  }
  if (with == With::coded && !made.coded) {
    const Span span("quantization");
    made.coded = code_rows(made.seen, made.to, quantizers.activation);
    if (known) *known = made;
  }
  if (memo && !known) memo->keep(made);
  if (quantizers.observer) quantizers.observer(name + suffix, made.seen, made.to);
  return made;
}

at::Tensor Projection::forward(const at::Tensor& x, Quantizers& quantizers, Memo& memo) {
  const bool acts = quantizers.acts();
  const bool wrapper = acts && on_wrapper, base = acts && on_base, post = quantizers.post;
  Matrix& w = acts && quantized.defined() ? quantized : weight;
  if (!w.defined()) throw std::logic_error(name + " exists quantized only (train.memory = \"lean\"), and this phase asks for it unquantized");
  const bool codes = (wrapper || base) && !post && is_default(quantizers.quantize);
  const bool exactly = codes && quantizers.exact && exact.defined();
  const With with = exactly ? With::operand : codes && coded ? With::coded : With::nothing;
  Memo::Entry given;  // what the base layer's product takes
  if (wrapper && !post) given = quantize(x, "", quantizers, &memo, base ? With::nothing : with);
  const at::Tensor input = wrapper && !post ? given.result : x;
  std::optional<RoundedGradient> rounded;
  if (quantizers.gradient && quantizers.gradient_on && quantizers.phase == Phase::training && at::GradMode::is_enabled() &&
      (wrapper || base || (acts && quantized.defined())))
    rounded = RoundedGradient{*quantizers.gradient, quantizers.next_gradient_seed()};
  LoraPair* low = lora && use->on ? lora.get() : nullptr;
  // A quantizer behind all of it, without an estimator, lets no gradient through.
  const bool differentiated = at::GradMode::is_enabled() && !(wrapper && post && !quantizers.ste);
  if (low && !differentiated && use->dropout == 0 && by_kernels(x) && low->adds_nothing()) low = nullptr;
  const auto product = [&](const at::Tensor& from, LoraPair* added) {
    if (exactly) return aten::exact_linear(from, given.operand, w, exact, bias, added, rounded);
    return linear(from, w, bias, added, rounded, with == With::coded ? Coded{given.coded.get(), coded.get()} : Coded{});
  };
  at::Tensor y;
  if (!base && low && use->dropout > 0) {
    y = product(input, nullptr) + low_rank(dropped(input, *use), *low);
  } else if (!base) {
    y = product(input, low);
  } else {  // the low-rank part does not see what the base layer's quantizer does
    if (!post) given = quantize(input, ".base_layer", quantizers, &memo, with);
    y = product(post ? input : given.result, nullptr);
    if (post) y = quantize(quantizers.flow(y), ".base_layer", quantizers, nullptr).result;
    if (low) y = y + low_rank(use->dropout > 0 ? dropped(input, *use) : input, *low);
  }
  y = quantizers.flow(y);
  return wrapper && post ? quantize(y, "", quantizers, nullptr).result : y;
}

void Projection::refresh(bool base, const Quantizers& quantizers) {
  if (lora) lora->refresh();
  if (!base) return;
  weight.refresh();
  const auto version = static_cast<std::uint32_t>(weight.value()._version()) + 1;
  if (!quantized.defined() || quantized_version_ == version) return;
  const at::NoGradGuard no_grad;
  const at::Tensor value = quantized_weight(weight.value().detach(), quantizers, weight_seed);
  quantized = quantizers.ste ? Matrix(value, weight.value()) : Matrix(value);
  quantized_version_ = version;
  exact = {};
  coded = nullptr;
}

}  // namespace assay::train
