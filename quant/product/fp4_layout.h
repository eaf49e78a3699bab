// An NVFP4 operand as the block-scaled products of GPUs with FP4 units read it (cuBLASLt's VEC16_UE4M3): codes, two a byte
// along K, and the E4M3 scales of its blocks in tiles of 128 rows x 4 blocks.
//
// In a tile, of 512 bytes, the scale of row r and block b lies at (r % 32) * 16 + (r / 32) * 4 + b; tiles follow each other
// along a row of tiles, 128 rows of the matrix, then the next. Source: cuBLAS's documentation, "1D block scaling factors
// layout"; torchao's to_blocked() gives the same (tests/parity/quant/fp4_operand_parity.py).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quant/formats.h"

namespace assay::quant::product {

// Sizes of an operand [rows, cols], blocks along cols (K). Rows and columns are filled up with zeros to what the units'
// alignment asks for; codes come first in memory, scales behind them.
struct Fp4Layout {
  std::int64_t rows, cols;

  std::int64_t padded_cols() const { return up(cols, 32); }
  std::int64_t padded_rows() const { return up(rows, 32); }
  std::int64_t code_stride() const { return padded_cols() / 2; }                 // bytes of a row
  std::int64_t code_bytes() const { return padded_rows() * code_stride(); }      // a multiple of 512: scales are aligned
  std::int64_t scale_bytes() const { return up(rows, 128) / 128 * tiles() * 512; }
  std::int64_t bytes() const { return code_bytes() + scale_bytes(); }
  // The place of a scale among the scales.
  std::int64_t scale_at(std::int64_t row, std::int64_t block) const {
    const std::int64_t tile = row / 128 * tiles() + block / 4, r = row % 128;
    return tile * 512 + r % 32 * 16 + r / 32 * 4 + block % 4;
  }

 private:
  static std::int64_t up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
  std::int64_t tiles() const { return up(padded_cols() / 16, 4) / 4; }  // along a row
};

// What such products cannot take, in a sentence; empty: nothing.
std::string_view fp4_objection(const Spec& spec, int axis);

// x [rows, cols], blocks along rows, quantized into `to`, of Fp4Layout::bytes(), and what stands above each row's block
// scales into `factor`. Parameters as of product::quantize().
void quantize_fp4(const Spec& spec, float a, const float* x, std::int64_t rows, std::int64_t cols, std::int64_t first_row,
                  std::vector<std::uint8_t>& to, std::vector<double>& factor);

}  // namespace assay::quant::product
