// The LibTorch binding of the formats, with and without the straight-through estimator.
#pragma once

#include <ATen/core/Tensor.h>

#include "quant/formats.h"
#include "quant/stats.h"

namespace assay::quant {

// y = dequantize(quantize(x)): x's shape and dtype (float32, bfloat16 or float16), contiguous. x [..., C] is seen as
// [rows, C]; blocks along `axis` of that matrix (1: C, the contraction axis of an activation; 0: down the rows, for 2-D
// weights). x is read where it lies, whatever its strides, unless its leading dimensions do not share one: then it is
// copied first. The result carries no gradient. Several threads share a large tensor (at::get_num_threads()); the bits
// do not depend on how many. With `stats` one thread does it all, and the figures are added to it.
// A tensor on the first GPU is quantized there (device.h), to the same bits, without `stats`.
// Throws c10::Error for other dtypes and devices, and what objection(spec, axis) names.
at::Tensor fake_quantize(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats = nullptr);

// The same values; backward passes the gradient through unchanged (straight-through estimator): dL/dx = dL/dy.
at::Tensor fake_quantize_ste(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats = nullptr);

}  // namespace assay::quant
