// The LibTorch binding of the formats, with and without the straight-through estimator.
#pragma once

#include <ATen/core/Tensor.h>

#include "quant/formats.h"
#include "quant/stats.h"

namespace assay::quant {

// y = dequantize(quantize(x)), same shape, float32, contiguous; x [..., C] is seen as [rows, C]; blocks along `axis` of
// that matrix (1: C, the contraction axis of an activation; 0: down the rows, for 2-D weights). Any strides.
// The result carries no gradient. Several threads share a large tensor (at::get_num_threads()); the bits do not
// depend on how many. Throws c10::Error for dtypes other than float32 and devices other than CPU.
at::Tensor fake_quantize(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats = nullptr);

// The same values; backward passes the gradient through unchanged (straight-through estimator): dL/dx = dL/dy.
at::Tensor fake_quantize_ste(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats = nullptr);

}  // namespace assay::quant
