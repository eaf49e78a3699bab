#include "trainer/model/projection.h"

#include <stdexcept>

#include "trainer/profile/profile.h"

namespace assay::train {

at::Tensor Projection::quantize(const at::Tensor& x, const char* suffix, const Quantizers& quantizers,
                                Memo* memo) const {
  at::Tensor xq;
  if (const at::Tensor* made = memo ? memo->find(x) : nullptr) {
    xq = *made;
  } else {
    const Span span("quantization");
    xq = quantizers.quantize(x, quantizers.activation, quantizers.ste);
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
  at::Tensor y;
  if (!base) {
    y = linear(input, w, bias, lora.get());
  } else {  // the low-rank part does not see what the base layer's quantizer does
    const at::Tensor base_input = post ? input : quantize(input, ".base_layer", quantizers, &memo);
    y = linear(base_input, w, bias, nullptr);
    if (post) y = quantize(y, ".base_layer", quantizers, nullptr);
    if (lora) y = y + low_rank(input, *lora);
  }
  return wrapper && post ? quantize(y, "", quantizers, nullptr) : y;
}

void Projection::refresh(bool base) {
  if (lora) {
    lora->a.refresh();
    lora->b.refresh();
  }
  if (base) weight.refresh();
}

}  // namespace assay::train
