// Packing and dequantizing, vectorised like loops.h, which comes before it in generic.cpp, avx2.cpp and avx512.cpp.

#include <cstddef>
#include <cstdint>

#include "quant/simd/pack_kernels.h"

namespace assay::quant::simd {
namespace {

// n codes, one a byte, into (n + 1) / 2 bytes; where n is odd there is a code 0 behind them.
ASSAY_QUANT_INLINE void join(const std::uint8_t* codes, std::uint8_t* out, int n) {
  for (int i = 0; i < (n + 1) / 2; ++i) out[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
}
// (n + 1) / 2 bytes into n codes, or n + 1 when n is odd.
ASSAY_QUANT_INLINE void split(const std::uint8_t* bytes, std::uint8_t* codes, int n) {
  for (int i = 0; i < (n + 1) / 2; ++i) {
    codes[2 * i] = bytes[i] & 15;
    codes[2 * i + 1] = bytes[i] >> 4;
  }
}

std::uint8_t byte_of_block(Format format, const BlockResult& result) {
  return result.poisoned ? nan_byte(format) : static_cast<std::uint8_t>(byte_of(format, result.stored));
}

template <int B>
ASSAY_TARGET void pack_blocks_of(const Spec& spec, float a, const float* in, std::uint8_t* codes, std::uint8_t* bytes, int n,
                                 std::int64_t index) {
  std::int32_t maxima[lanes] = {};
  float encode[lanes], stored[lanes];
  std::uint8_t single[lanes * B];
  std::int32_t worst = 0;
  for (int b = 0; b < n; ++b) {
    std::int32_t m = 0;
#pragma GCC unroll 1  // or the steps are unrolled before the vectoriser sees them
    for (int i = 0; i < B; ++i) m = larger(m, abs_bits(in[b * B + i]));
    maxima[b] = m;
    worst = larger(worst, m);
  }
  if (worst >= infinity_bits) {
    for (int b = 0; b < n; ++b) {
      float values[B];
      const BlockShape shape{.width = B, .index = index + b * B};
      bytes[b] = byte_of_block(spec.format, reference_block(spec, a, in + b * B, values, shape, single + b * B));
    }
  } else {
    scales<true>(spec.mode, a, {Layout::Kind::rows, in}, maxima, n, encode, stored);
    for (int b = 0; b < n; ++b) bytes[b] = static_cast<std::uint8_t>(byte_of(spec.format, stored[b]));
    with_rounding<B == 16>(spec, [&](const auto& round) ASSAY_QUANT_LAMBDA {
      for (int b = 0; b < n; ++b) {
        const float to_code = encode[b];
#pragma GCC unroll 1
        for (int i = 0; i < B; ++i)
          single[b * B + i] = static_cast<std::uint8_t>(code_of(round(in[b * B + i], to_code, index + b * B + i)));
      }
    });
  }
  join(single, codes, n * B);
}

ASSAY_TARGET void pack_blocks(const Spec& spec, float a, const float* in, std::uint8_t* codes, std::uint8_t* bytes, int n,
                              std::int64_t index) {
  if (spec.block() == 16) pack_blocks_of<16>(spec, a, in, codes, bytes, n, index);
  else pack_blocks_of<32>(spec, a, in, codes, bytes, n, index);
}

ASSAY_TARGET void pack_strip(const Spec& spec, float a, const float* in, std::uint8_t* codes, std::ptrdiff_t code_stride,
                             std::uint8_t* bytes, int height, int width, std::int64_t index, std::int64_t cols) {
  std::int32_t maxima[lanes] = {};
  float encode[lanes], stored[lanes];
  std::uint8_t single[32 * lanes];
  for (int r = 0; r < height; ++r) {
    const float* row = in + r * lanes;
    for (int c = 0; c < width; ++c) maxima[c] = larger(maxima[c], abs_bits(row[c]));
  }
  std::int32_t worst = 0;
  for (int c = 0; c < width; ++c) worst = larger(worst, maxima[c]);
  const int step = spec.tiles ? 16 : 1;
  if (worst >= infinity_bits) {
    for (int c = 0; c < width; c += step) {
      float values[256];
      std::uint8_t block[256];
      const int block_width = static_cast<int>(least(step, width - c));
      for (int r = 0; r < height; ++r)
        for (int i = 0; i < block_width; ++i) values[r * block_width + i] = in[r * lanes + c + i];
      const BlockShape shape{height, block_width, block_width, 1, index + c, cols};
      const std::uint8_t byte = byte_of_block(spec.format, reference_block(spec, a, values, values, shape, block));
      for (int i = 0; i < block_width; ++i) bytes[c + i] = byte;
      for (int r = 0; r < height; ++r)
        for (int i = 0; i < block_width; ++i) single[r * lanes + c + i] = block[r * block_width + i];
    }
  } else {
    if (spec.tiles) {
      for (int first = 0; first < width; first += 16) {
        const int end = static_cast<int>(least(first + 16, width));
        std::int32_t m = 0;
        for (int c = first; c < end; ++c) m = larger(m, maxima[c]);
        for (int c = first; c < end; ++c) maxima[c] = m;
      }
    }
    const auto kind = spec.tiles ? Layout::Kind::tiles : Layout::Kind::columns;
    scales<true>(spec.mode, a, {kind, in, lanes, height}, maxima, width, encode, stored);
    for (int c = 0; c < width; ++c) bytes[c] = static_cast<std::uint8_t>(byte_of(spec.format, stored[c]));
    with_rounding<true>(spec, [&](const auto& round) ASSAY_QUANT_LAMBDA {
      for (int r = 0; r < height; ++r) {
        const float* from = in + r * lanes;
        for (int c = 0; c < width; ++c)
          single[r * lanes + c] = static_cast<std::uint8_t>(code_of(round(from[c], encode[c], index + r * cols + c)));
      }
    });
  }
  for (int r = 0; r < height; ++r) {
    if (width % 2 == 1) single[r * lanes + width] = 0;  // width < lanes then
    join(single + r * lanes, codes + r * code_stride, width);
  }
}

// The factors of n <= lanes blocks; NaN for a scale that is NaN.
ASSAY_TARGET void factors(const Above& above, const std::uint8_t* bytes, float* decode, int n) {
  float stored[lanes];
  for (int b = 0; b < n; ++b) stored[b] = stored_of(above.format, bytes[b]);
  if (above.divided) {
    for (int b = 0; b < n; ++b) decode[b] = stored[b] / above.above;
  } else {
    with_rule(above.mode, [&](auto tag) ASSAY_QUANT_LAMBDA {
      const typename decltype(tag)::type rule(above.above);
      for (int b = 0; b < n; ++b) decode[b] = rule.decode_of(stored[b]);
    });
  }
  // Not every rule lets NaN through.
  for (int b = 0; b < n; ++b) decode[b] = stored[b] == stored[b] ? decode[b] : stored[b];
}

template <int B>
ASSAY_QUANT_INLINE void unpack_whole(const std::uint8_t* single, const float* decode, int n, float* out) {
  for (int b = 0; b < n; ++b) {
    const float factor = decode[b];
#pragma GCC unroll 1
    for (int i = 0; i < B; ++i) out[b * B + i] = value_of(single[b * B + i]) * factor;
  }
}

ASSAY_TARGET void unpack_blocks(const Above& above, const std::uint8_t* codes, const std::uint8_t* bytes, int n,
                                int elements, float* out) {
  const int block = above.format == Format::nvfp4 ? 16 : 32, whole = elements / block;
  float decode[lanes];
  std::uint8_t single[lanes * 32];
  factors(above, bytes, decode, n);
  split(codes, single, elements);
  if (block == 16) unpack_whole<16>(single, decode, whole, out);
  else unpack_whole<32>(single, decode, whole, out);
  for (int i = whole * block; i < elements; ++i) out[i] = value_of(single[i]) * decode[n - 1];
}

ASSAY_TARGET void unpack_strip(const Above& above, const std::uint8_t* codes, std::ptrdiff_t code_stride,
                               const std::uint8_t* bytes, int height, int width, float* out, std::ptrdiff_t out_stride) {
  float decode[lanes];
  std::uint8_t single[lanes];
  factors(above, bytes, decode, width);
  for (int r = 0; r < height; ++r) {
    split(codes + r * code_stride, single, width);
    float* to = out + r * out_stride;
    for (int c = 0; c < width; ++c) to[c] = value_of(single[c]) * decode[c];
  }
}

}  // namespace
}  // namespace assay::quant::simd
