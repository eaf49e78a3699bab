// A matrix quantized into the form that products want: code * block scale, which bf16 holds exactly, and a factor a row.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/formats.h"
#include "quant/product/product.h"

namespace assay::quant::product {

// How wide MXFP4 rows may be: the largest block scale of a row becomes 2^top, and blocks below 2^bottom are left out.
// Products then are at most 36 * 2^(2 top), which 2^25 of them do not bring over fp32; and all are multiples of
// 2^(2 bottom - 2) = 2^-126, so that no sum is subnormal either.
inline constexpr int top = 48, bottom = -62;

// A non-zero element that its row's range does not hold; value is its own, whatever was taken out of the row.
struct Outside {
  std::int64_t row, col;
  double value;
};

// Element (r, c) is elements[r * cols + c] * factor[r], but for those in `outside`, which are 0 in elements.
struct Operand {
  std::int64_t rows = 0, cols = 0;
  std::vector<std::uint16_t> bf16;  // one of the three is filled
  std::vector<float> fp32;
  std::vector<std::uint8_t> fp4;    // as fp4_layout.h says; code * scale is the element
  std::vector<double> factor;
  std::vector<Outside> outside;
  std::int64_t outside_blocks = 0;

  const void* data() const {
    if (!fp4.empty()) return fp4.data();
    return bf16.empty() ? static_cast<const void*>(fp32.data()) : bf16.data();
  }
};

// Largest finite |x|, in parallel.
float tensor_max(const float* x, std::int64_t n);

// Quantizes x [rows, cols], blocks along axis. `a` is tensor_max() of the whole tensor x belongs to, where
// needs_tensor_max(spec). `centred`: take a power of two out of MXFP4 rows, as above; else nothing is left outside.
// `to` keeps its memory from call to call. `first_row`: x's place in the matrix, which stochastic rounding depends on.
void quantize(const Spec& spec, float a, Unit unit, bool centred, int axis, const float* x, std::int64_t rows,
              std::int64_t cols, Operand& to, std::int64_t first_row = 0);

}  // namespace assay::quant::product
