// Packed FP4 matrices: two E2M1 codes a byte, a byte for each block's scale, and the number(s) that the tensor scale
// follows from. .5625 bytes an element for NVFP4, .53125 for MXFP4.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/fake_quantize.h"
#include "quant/formats.h"

namespace assay::quant {

// A row-major matrix [rows, cols] with blocks along `axis`. dequantize() gives exactly what fake_quantize() gives.
struct Packed {
  Spec spec;
  int axis = 1;
  std::int64_t rows = 0, cols = 0;
  // rows x code_bytes(): the code of an even column in the low nibble, of the odd one after it in the high nibble. Each
  // row starts on a byte; the nibble after an odd last column is 0. A code's top bit is the element's sign, that of -0
  // included (but `ct` has no -0).
  std::vector<std::uint8_t> codes;
  // axis 1: rows x blocks along a row; axis 0: blocks down a column x cols. A tile's scale is repeated, as if for blocks
  // along the axis. NVFP4: E4M3 (never negative); MXFP4: E8M0. NaN for a block that dequantizes to NaN.
  std::vector<std::uint8_t> scales;
  // A of the formulas: of the tensor, of each row with Scope::row, Spec::static_max with Scope::fixed. Empty where the mode
  // has no tensor scale.
  std::vector<float> maxima;

  std::int64_t code_bytes() const { return (cols + 1) / 2; }  // of a row
};

// Blocks, counting a partial last one.
constexpr std::int64_t block_count(const Spec& spec, std::int64_t elements) {
  return (elements + spec.block() - 1) / spec.block();
}
// Sizes of Packed::codes and Packed::scales.
constexpr std::int64_t code_count(std::int64_t rows, std::int64_t cols) { return rows * ((cols + 1) / 2); }
constexpr std::int64_t scale_count(const Spec& spec, std::int64_t rows, std::int64_t cols, int axis) {
  return axis == 1 ? rows * block_count(spec, cols) : block_count(spec, rows) * cols;
}

// Preconditions as fake_quantize(). Cost: reads the input as often as it does. One thread.
Packed pack(const Spec& spec, const ConstView& in, int axis);
Packed pack(const Spec& spec, const float* in, std::int64_t rows, std::int64_t cols, int axis);
// out: rows x cols.
void dequantize(const Packed& packed, float* out);

// The same for pieces, as fake_quantize_piece() has them, into or from memory of the caller's. row_maxima (Scope::row
// only, else nullptr): one for each row of the piece.
void pack_piece(const Spec& spec, float tensor_max, const ConstView& in, int axis, std::int64_t first_row,
                std::uint8_t* codes, std::uint8_t* scales, float* row_maxima, Path path = best_path());
void dequantize_piece(const Spec& spec, float tensor_max, const float* row_maxima, const std::uint8_t* codes,
                      const std::uint8_t* scales, std::int64_t rows, std::int64_t cols, int axis, float* out,
                      Path path = best_path());

// What compressed-tensors' checkpoints call the global scale, g in s / g: the reciprocal of what stands above the block
// scales; 1 where the mode has nothing there.
float tensor_divisor(const Spec& spec, float tensor_max);
// What stands above the block scales itself, which products apply to their results; 1 where nothing does.
float tensor_factor(const Spec& spec, float tensor_max);

// As dequantize_piece(), with a given factor above the block scales instead of the mode's own: an element is
// q * (s / divisor), which is what a compressed-tensors checkpoint means by its weight_global_scale.
void dequantize_divided(Format format, float divisor, const std::uint8_t* codes, const std::uint8_t* scales,
                        std::int64_t rows, std::int64_t cols, int axis, float* out, Path path = best_path());

}  // namespace assay::quant
