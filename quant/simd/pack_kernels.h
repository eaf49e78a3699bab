// The loops of packing and dequantizing over one chunk, one set a processor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/formats.h"

namespace assay::quant::simd {

// What a block scale is multiplied with: by the rule of a mode under the maximum `above`, or, `divided`, 1 / above.
struct Above {
  Format format;
  Mode mode;
  float above;
  bool divided;
};

struct PackKernels {
  // n <= lanes whole blocks of 16 or 32, one after the other in memory, under the maximum `a`; `index` is the first
  // element's place in the matrix. codes: two a byte; scales: a byte a block.
  void (*pack_blocks)(const Spec& spec, float a, const float* in, std::uint8_t* codes, std::uint8_t* scales, int n,
                      std::int64_t index);
  // A strip of `height` rows (a block, or less), `lanes` apart, and `width` <= lanes columns, `cols` of the matrix: each
  // column is a block, or every 16 a tile. codes: rows code_stride apart; scales: a byte a column.
  void (*pack_strip)(const Spec& spec, float a, const float* in, std::uint8_t* codes, std::ptrdiff_t code_stride,
                     std::uint8_t* scales, int height, int width, std::int64_t index, std::int64_t cols);
  // n <= lanes blocks, the last one of whose elements may be partial: `elements` in all.
  void (*unpack_blocks)(const Above& above, const std::uint8_t* codes, const std::uint8_t* scales, int n, int elements,
                        float* out);
  void (*unpack_strip)(const Above& above, const std::uint8_t* codes, std::ptrdiff_t code_stride,
                       const std::uint8_t* scales, int height, int width, float* out, std::ptrdiff_t out_stride);
};

extern const PackKernels pack_generic;
#if defined(__x86_64__)
extern const PackKernels pack_avx2, pack_avx512;
#endif

}  // namespace assay::quant::simd
