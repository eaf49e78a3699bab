// Products of a quantized weight and quantized activations as products of codes times block scales, on bf16 units where the
// processor has them (quant/gemm/pairs.h). What stands above the block scales, one factor for a tensor or a row, is applied to the
// result. Exact but for the order of the sum, and the same bits on processors with and without such units.
//
// Elements are got back from the fake-quantized values: those are code · block scale · factor to some 2^-22, and code · block scale
// has 6 significant bits, so that dividing by the factor and rounding to bfloat16's 8 finds it. Where a value is not that, or is
// out of the units' range (MXFP4 rows beyond 2^±50), code_row() sees it, and the row is multiplied as the fp32 values it is.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "quant/formats.h"
#include "trainer/model/live_rows.h"
#include "trainer/model/matrix.h"

namespace assay::train {

// A frozen weight [out, in] as such a product takes it: 2 bytes an element.
struct CodedWeight {
  kernels::PackedPairs pairs;
  float factor = 1;
};
// `quantized` is fake_quantize(weight, spec, ...), one scale at most above the block scales. Null where an element cannot be had.
std::shared_ptr<const CodedWeight> code_weight(const at::Tensor& weight, const at::Tensor& quantized, const quant::Spec& spec);

// Activations [M, in].
struct CodedRows {
  std::int64_t rows = 0, words = 0;
  std::unique_ptr<std::uint32_t[]> elements;  // [M, words]
  std::vector<float> factor;                  // [M], or one for all rows
  std::vector<RowPiece> plain;                // rows that are multiplied as they are
};
// `quantized` is fake_quantize(x, spec, 1); both [M, in], fp32, contiguous.
std::shared_ptr<const CodedRows> code_rows(const at::Tensor& x, const at::Tensor& quantized, const quant::Spec& spec);

// y [M, out] = x W^T (+ bias): x are `rows` coded, W is `weight` coded.
void coded_product(const at::Tensor& x, const CodedRows& rows, Matrix& weight, const CodedWeight& coded, const at::Tensor& bias, at::Tensor& y);

}  // namespace assay::train
