// Gradients in FP4, for the two products of a linear layer's backward.
//
// Each of the two gets the gradient in blocks along the axis that it sums over, rounded stochastically, after a random
// Hadamard transform along that axis:
//   G' = T^-1(Q_sr(T(G))),  dx = G'_out W,  dW = G'_M^T x.
// T is orthogonal, so multiplying the transformed-back G' with a plain operand is, up to fp32 summation, the product of
// the quantized T(G) with the operand transformed alike: the operands keep the form that the forward quantized them to.
// Stochastic rounding makes the mean of G' over seeds G, but for elements above their block's largest number, which
// saturate (NVFP4: a block scale that rounded down, up to 1/16 of the block's maximum; MXFP4: none with `rceil` and
// `ceil`, up to a quarter with `floor`), and blocks so far below the tensor's maximum that their scale underflows. What
// that amounts to is in docs/results/quant-torch.md.
//
// What is published: NVIDIA, "Pretraining Large Language Models with NVFP4" (arXiv:2509.25149): stochastic rounding of
// gradients, Hadamard transforms of size 16 with random signs on the operands of dW's product only, x quantized again
// along the summed axis, to nearest; Tseng, Yu and Park, "Training LLMs with MXFP4" (arXiv:2502.20586): transforms and
// stochastic rounding for both products. Here the transform is on both, and the other operand is left as the forward
// has it, so that the mean over seeds is the gradient itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "quant/formats.h"

namespace assay::quant {

struct GradientSpec {
  Spec spec{.rounding = Rounding::stochastic};  // its seed is not looked at: every call has one
  bool hadamard = true;
};
// What is wrong with it, in a sentence; empty when nothing is.
std::string_view objection(const GradientSpec& spec);

// G' of g [M, N], float32: for the product that sums over N (axis 1) or over M (axis 0); the two draw different random
// numbers from one seed. A last group of fewer than 16 is transformed as if padded with zeros. Same shape; strides as
// it comes. Costs one or two copies of g in memory while it runs, one after. Bits do not depend on threads.
at::Tensor quantize_gradient(const at::Tensor& g, const GradientSpec& spec, std::uint64_t seed, int axis);

}  // namespace assay::quant
