// The scalar reference: the oracle of every faster path. One function per formula, readable beside
// docs/quantization.md, with table codecs instead of block.h's bit arithmetic, so that the two can check each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "quant/fake_quantize.h"
#include "quant/formats.h"
#include "quant/stats.h"

namespace assay::quant {

// Where a block lies: 1 x n, n x 1, or with spec.tiles up to 16 x 16 elements; what is missing of a partial block is
// taken for zeros. `index` is the first element's place in the matrix, row * cols + column (stochastic rounding).
struct BlockShape {
  int height = 1, width = 1;
  std::ptrdiff_t row_stride = 0, col_stride = 1;
  std::int64_t index = 0, index_row_stride = 0;
};

struct BlockResult {
  float stored = 0;      // the block scale's own value, what a packed tensor keeps
  float decode = 0;      // what a code is multiplied by
  bool poisoned = false; // held NaN or Inf under `propagate`: all NaN; the rest is 0 then
  int saturated = 0;     // elements with code ±6
};

// One block. `tensor_max` is A of the formulas: the finite maximum of the tensor or row, or the calibrated one.
// in == out is allowed. `codes`, if given, takes height * width E2M1 codes, row by row.
BlockResult reference_block(const Spec& spec, float tensor_max, const float* in, float* out, const BlockShape& shape,
                            std::uint8_t* codes = nullptr);
// The same for n elements `stride` apart, rounded to nearest even. Returns how many elements have code ±6.
int reference_block(const Spec& spec, float tensor_max, const float* in, float* out, int n, std::ptrdiff_t stride);

// One element in fp32.
float element(const ConstView& x, std::int64_t r, std::int64_t c);

// fake_quantize_piece() by reference_block() alone.
std::int64_t reference_piece(const Spec& spec, float tensor_max, const ConstView& in, const View& out, int axis,
                             std::int64_t first_row);
// fake_quantize() of row-major fp32 by reference_block() alone.
void fake_quantize_reference(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols,
                             int axis, ErrorStats* stats = nullptr);

// The error figures of every block by itself, in the order in which blocks lie in memory; (row, col) is the block's
// first element. For a look at where a tensor loses, not for speed.
void each_block(const Spec& spec, const ConstView& in, int axis,
                const std::function<void(std::int64_t row, std::int64_t col, const ErrorStats&)>& visit);

}  // namespace assay::quant
