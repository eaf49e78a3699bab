// W4A4 products of tensors on bf16 units that add in fp32: exact but for the order of the sum, as product/product.h has it, on
// any device whose at::mm takes bfloat16 to float32.
//
//   y[m, n] = fp32( fp64(acc[m, n]) * (fx[m] * fw) ),   acc = sum over k of (qx * sx) * (qw * sw) in fp32
#pragma once

#include <ATen/core/Tensor.h>

#include "quant/formats.h"

namespace assay::quant {

// x [rows, K] quantized: element (r, k) is elements[r, k] * factor[r].
struct ExactOperand {
  at::Tensor elements;  // bfloat16: E2M1 code * block scale, which has 6 significant bits at most
  at::Tensor factor;    // float64 [1], or [rows, 1] with Scope::row: what stands above the block scales
  bool defined() const { return elements.defined(); }
};

// Of float32 on the CPU (any axis, tiles), or on CUDA (blocks along rows, no tiles). The codes and scales are those of
// fake_quantize() with the same spec; a poisoned block is NaN. MXFP4's elements are the quantized values themselves, factor 1,
// and keep them wherever bfloat16's range of exponents, fp32's own, does: from 2^-133 on.
ExactOperand exact_operand(const at::Tensor& x, const Spec& spec, int axis = 1);

// y [M, N] = x [M, K] w [N, K]^T, float32. w has one factor. No graph. Off CUDA the same elements are multiplied as float32.
at::Tensor exact_product(const ExactOperand& x, const ExactOperand& w);

// The largest relative error of at::mm on that device over bfloat16 products whose sums are known and fit fp32: 0 says that it
// adds in fp32, and that exact_product() is what it is called. Measured once for each kind of device.
double exact_product_error(const at::Device& device);

}  // namespace assay::quant
