// A linear layer with quantized weight and activation, forward and backward, as one autograd function.
//
//   pre-hook:  y = Q_a(x) Q_w(W)^T + bias          post-hook:  y = Q_a(x Q_w(W)^T + bias)
// Backward, g = dL/dy; a quantizer passes the gradient unchanged with the straight-through estimator (STE), and
// nothing without:
//   dx = g Q_w(W),  dW = g^T Q_a(x) (post: g^T x),  dbias = sum of g over rows.
// So without STE a pre-hook gives x no gradient, and W none where it is quantized; a post-hook gives none at all.
//
// Products are those of quant/product: forward with both operands quantized linear_w4a4(), else fp32. dW sums over
// tokens in ascending order. The bits do not depend on LibTorch's threads where those of quant/product do not.
//
// Memory: what is kept for the backward is x (only where W wants a gradient) and W (only where x does), the tensors
// themselves, no copies and nothing quantized: at::linear keeps the same. Quantized x exists for a few hundred rows at
// a time. A trainable W is quantized and packed in the forward and again in the backward, 2 to 4 bytes an element while
// it lasts. What is measured is in docs/results/quant-torch.md.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "quant/formats.h"
#include "quant/torch/gradient.h"

namespace assay::quant {

struct LinearSpec {
  std::optional<Spec> weight = {};       // absent: as it is
  int weight_axis = 1;                   // blocks along in (1) or out (0)
  std::optional<Spec> activation = {};   // absent: as it is; blocks along the last dimension
  bool post = false;                     // the output is quantized, not the input
  bool ste = true;
  std::optional<GradientSpec> gradient = {};  // absent: fp32
};
// What is wrong with it, in a sentence; empty when nothing is.
std::string_view objection(const LinearSpec& spec);

// All of these: float32 on the CPU, any strides (copied where not contiguous); x [..., in], W [out, in], bias [out] or
// undefined; y [..., out]. `seed` is for spec.gradient: a new one for every call, or the roundings repeat. Throws
// c10::Error for other tensors and for what objection() names; second derivatives are refused.

// A weight that changes: quantized in every call.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const LinearSpec& spec,
                  std::uint64_t seed = 0);

// A weight that does not: quantized here, once, and kept in the forms that the products read. Copies share them.
class FrozenLinear {
 public:
  // With `backward` also the form for dx: 4 bytes an element more. Without it an x that wants a gradient is refused.
  FrozenLinear(const at::Tensor& weight, const LinearSpec& spec, bool backward = true);

  at::Tensor operator()(const at::Tensor& x, const at::Tensor& bias = {}, std::uint64_t seed = 0) const;

  const LinearSpec& spec() const;
  std::string implementation() const;  // the library's name of what the forward multiplies with
  struct State;

 private:
  std::shared_ptr<const State> state_;
};

}  // namespace assay::quant
