#include "trainer/model/projection.h"

#include <ATen/ATen.h>

#include <stdexcept>

#include "quant/torch/fake_quantize.h"
#include "trainer/profile/profile.h"

namespace assay::train {

namespace {

at::Tensor dropped(const at::Tensor& x, AdapterUse& use) {
  const double kept = 1 - use.dropout;
  const at::Tensor mask = at::empty_like(x).bernoulli_(kept, use.masks).div_(kept);
  return x * mask;
}

}  // namespace

at::Tensor Projection::quantize(const at::Tensor& x, const char* suffix, const Quantizers& quantizers,
                                Memo* memo) const {
  at::Tensor xq;
  if (const at::Tensor* made = memo ? memo->find(x) : nullptr) {
    xq = *made;
  } else {
    const Span span("quantization");
    xq = quantizers.flow(quantizers.quantize(x, quantizers.activation, quantizers.ste));
    if (memo) memo->keep(x, xq);
  }
  if (quantizers.observer) quantizers.observer(name + suffix, x, xq);
  return xq;
}

at::Tensor Projection::forward(const at::Tensor& x, const Quantizers& quantizers, Memo& memo) {
  const bool acts = quantizers.acts();
  const bool wrapper = acts && on_wrapper, base = acts && on_base, post = quantizers.post;
  Matrix& w = acts && quantized.defined() ? quantized : weight;
  if (!w.defined()) throw std::logic_error(name + " exists quantized only (train.memory = \"lean\"), and this phase asks for it unquantized");
  const at::Tensor input = wrapper && !post ? quantize(x, "", quantizers, &memo) : x;
  LoraPair* low = lora && use->on ? lora.get() : nullptr;
  at::Tensor y;
  if (!base && low && use->dropout > 0) {
    y = linear(input, w, bias, nullptr) + low_rank(dropped(input, *use), *low);
  } else if (!base) {
    y = linear(input, w, bias, low);
  } else {  // the low-rank part does not see what the base layer's quantizer does
    const at::Tensor base_input = post ? input : quantize(input, ".base_layer", quantizers, &memo);
    y = linear(base_input, w, bias, nullptr);
    if (post) y = quantize(quantizers.flow(y), ".base_layer", quantizers, nullptr);
    if (low) y = y + low_rank(use->dropout > 0 ? dropped(input, *use) : input, *low);
  }
  y = quantizers.flow(y);
  return wrapper && post ? quantize(y, "", quantizers, nullptr) : y;
}

void Projection::refresh(bool base, const Quantizers& quantizers) {
  if (lora) {
    lora->a.refresh();
    lora->b.refresh();
  }
  if (!base) return;
  weight.refresh();
  const auto version = static_cast<std::uint32_t>(weight.value()._version()) + 1;
  if (!quantized.defined() || quantized_version_ == version) return;
  const at::NoGradGuard no_grad;
  const at::Tensor value = quant::fake_quantize(weight.value().detach(), quantizers.weight, quantizers.weight_axis);
  quantized = quantizers.ste ? Matrix(value, weight.value()) : Matrix(value);
  quantized_version_ = version;
}

}  // namespace assay::train
