// The loops of the fast paths over block.h, vectorised by the compiler for one processor: generic.cpp, avx2.cpp and
// avx512.cpp each include this once, with ASSAY_TARGET defined as the processor's function attribute (an attribute, and
// not the compiler's option for the whole file: inline functions of other headers stay baseline code).
//
// A chunk's maxima, its scales and its elements are each one loop: the divisions of the scales then vectorise too, and
// the input is still in the first-level cache when its elements are rounded.

#include <cstddef>
#include <cstdint>

#include "quant/block.h"
#include "quant/half.h"
#include "quant/reference.h"
#include "quant/simd/kernels.h"
#include "quant/simd/stream.h"

#define ASSAY_QUANT_LAMBDA __attribute__((always_inline))

namespace assay::quant::simd {
namespace {

using namespace block;

// Asks for what the next chunk or strip reads while this one is rounded: the processor's own prefetcher stops where
// reading stops. Behind the matrix's end it does nothing.
template <class T>
ASSAY_QUANT_INLINE void prefetch(const T* x, int n) {
  for (int i = 0; i < n; i += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(x + i, 0, 2);
}

ASSAY_QUANT_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

}  // namespace
}  // namespace assay::quant::simd

#if defined(ASSAY_AVX2)
#include "quant/simd/avx2_loops.h"
#endif

namespace assay::quant::simd {
namespace {

// Nearest even, and not by division, whose zeros lose their sign.
ASSAY_QUANT_INLINE bool multiplies_to_nearest(const Spec& spec) {
  return spec.rounding == Rounding::nearest_even && spec.mode != Mode::ct && spec.mode != Mode::ct_bf16;
}

// ---- maxima ----
ASSAY_QUANT_INLINE std::int32_t max_bits(const float* x, std::int64_t n) {
  std::int32_t m = 0;
  for (std::int64_t i = 0; i < n; ++i) m = larger(m, abs_bits(x[i]));
  return m;
}

ASSAY_TARGET float finite_max_fp32(const float* x, std::int64_t n) {
  std::int32_t m = max_bits(x, n);
  if (m >= infinity_bits) {
    m = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = abs_bits(x[i]);
      m = larger(m, bits < infinity_bits ? bits : 0);
    }
  }
  return float_of(m);
}

// Of bf16 or fp16: their absolute values compare like their bits too. `infinity`: those of Inf.
ASSAY_TARGET std::int16_t finite_max_16(const std::int16_t* x, std::int64_t n, std::int16_t infinity) {
  std::int16_t m = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int16_t bits = x[i] & 0x7fff;
    m = m > bits ? m : bits;
  }
  if (m >= infinity) {
    m = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int16_t bits = x[i] & 0x7fff;
      if (bits < infinity) m = m > bits ? m : bits;
    }
  }
  return m;
}

// ---- elements of any type and stride, to fp32 in the cache and back ----
ASSAY_TARGET void load(const ConstView& x, std::int64_t r, std::int64_t c, std::int64_t n, float* to) {
  const std::ptrdiff_t first = r * x.row_stride + c * x.col_stride, stride = x.col_stride;
  if (x.type == Type::fp32) {
    const float* from = static_cast<const float*>(x.data) + first;
    if (stride == 1) for (std::int64_t i = 0; i < n; ++i) to[i] = from[i];
    else for (std::int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
    return;
  }
  const std::uint16_t* from = static_cast<const std::uint16_t*>(x.data) + first;
  if (x.type == Type::bf16) {
    if (stride == 1) for (std::int64_t i = 0; i < n; ++i) to[i] = from_bf16(from[i]);
    else for (std::int64_t i = 0; i < n; ++i) to[i] = from_bf16(from[i * stride]);
  } else {
    if (stride == 1) for (std::int64_t i = 0; i < n; ++i) to[i] = from_fp16(from[i]);
    else for (std::int64_t i = 0; i < n; ++i) to[i] = from_fp16(from[i * stride]);
  }
}

ASSAY_TARGET void store(const View& x, std::int64_t r, std::int64_t c, std::int64_t n, const float* from) {
  const std::ptrdiff_t first = r * x.row_stride + c * x.col_stride, stride = x.col_stride;
  if (x.type == Type::fp32) {
    float* to = static_cast<float*>(x.data) + first;
    if (stride == 1) for (std::int64_t i = 0; i < n; ++i) to[i] = from[i];
    else for (std::int64_t i = 0; i < n; ++i) to[i * stride] = from[i];
    return;
  }
  std::uint16_t* to = static_cast<std::uint16_t*>(x.data) + first;
  if (x.type == Type::bf16) {
    if (stride == 1) for (std::int64_t i = 0; i < n; ++i) to[i] = result_to_bf16(from[i]);
    else for (std::int64_t i = 0; i < n; ++i) to[i * stride] = result_to_bf16(from[i]);
  } else {
    if (stride == 1) for (std::int64_t i = 0; i < n; ++i) to[i] = to_fp16(from[i]);
    else for (std::int64_t i = 0; i < n; ++i) to[i * stride] = to_fp16(from[i]);
  }
}

ASSAY_TARGET float finite_max_of(const ConstView& x) {
  const bool packed = x.col_stride == 1 && x.row_stride == x.cols;
  const std::int64_t rows = packed ? (x.rows * x.cols > 0) : x.rows, cols = packed ? x.rows * x.cols : x.cols;
  float m = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    float row_max = 0;
    if (x.col_stride != 1) {
      float buffer[1024];
      for (std::int64_t c = 0; c < cols; c += 1024) {
        const std::int64_t n = least(1024, cols - c);
        load(x, r, c, n, buffer);
        const float part = finite_max_fp32(buffer, n);
        row_max = part > row_max ? part : row_max;
      }
    } else if (x.type == Type::fp32) {
      row_max = finite_max_fp32(static_cast<const float*>(x.data) + r * x.row_stride, cols);
    } else {
      const auto* row = static_cast<const std::int16_t*>(x.data) + r * x.row_stride;
      const bool bf16 = x.type == Type::bf16;
      const auto bits = static_cast<std::uint16_t>(finite_max_16(row, cols, bf16 ? 0x7f80 : 0x7c00));
      row_max = bf16 ? from_bf16(bits) : from_fp16(bits);
    }
    m = row_max > m ? row_max : m;
  }
  return m;
}

// ---- scales ----
// How a chunk's blocks lie, for what Four-over-Six needs: the sum of each block's errors, 16 elements a block, under one
// scale each. n: blocks, or columns.
struct Layout {
  enum class Kind { rows, columns, tiles } kind;
  const float* x;
  std::ptrdiff_t stride = 0;  // columns, tiles
  int height = 0;
};

template <class Rule>
ASSAY_QUANT_INLINE float error_of(const Rule& rule, float x, float encode, float stored) {
  return rule.error(round_e2m1(scaled<Rule::divides>(x, encode)), stored, x);
}

template <class Rule>
ASSAY_TARGET void error_sums(const Rule& rule, const Layout& layout, const float* encode, const float* stored, int n,
                             float* sums) {
  const float* x = layout.x;
  for (int b = 0; b < n; ++b) sums[b] = 0;
  if (layout.kind == Layout::Kind::rows) {
    float errors[lanes * 16];
    for (int b = 0; b < n; ++b) {
      const float to_code = encode[b], s = stored[b];
#pragma GCC unroll 1
      for (int i = 0; i < 16; ++i) errors[b * 16 + i] = error_of(rule, x[b * 16 + i], to_code, s);
    }
    for (int i = 0; i < 16; ++i) {
      for (int b = 0; b < n; ++b) sums[b] += errors[b * 16 + i];
    }
  } else if (layout.kind == Layout::Kind::columns) {
    for (int r = 0; r < layout.height; ++r) {
      const float* row = x + r * layout.stride;
      for (int c = 0; c < n; ++c) sums[c] += error_of(rule, row[c], encode[c], stored[c]);
    }
  } else {
    float row_sums[strip_lanes / 16][16] = {};
    for (int r = 0; r < layout.height; ++r) {
      const float* row = x + r * layout.stride;
      float errors[strip_lanes];
      for (int c = 0; c < n; ++c) errors[c] = error_of(rule, row[c], encode[c], stored[c]);
      for (int c = 0; c < n; ++c) row_sums[c / 16][r] += errors[c];
    }
    for (int c = 0; c < n; ++c) sums[c] = c % 16 == 0 ? tile_sum(row_sums[c / 16]) : sums[c - 1];
  }
}

// WantStored: `decode` gets the block scales themselves, not what they decode with.
template <bool WantStored>
ASSAY_TARGET void scales(Mode mode, float a, const Layout& layout, const std::int32_t* maxima, int n, float* encode,
                         float* decode) {
  with_rule(mode, [&](auto tag) ASSAY_QUANT_LAMBDA {
    using Rule = typename decltype(tag)::type;
    const Rule rule(a);
    if constexpr (Rule::candidates == 1) {
      for (int b = 0; b < n; ++b) {
        const Scale scale = rule(float_of(maxima[b]));
        encode[b] = scale.encode;
        decode[b] = WantStored ? scale.stored : scale.decode;
      }
    } else {
      constexpr int most = strip_lanes;
      float stored[most] = {}, encode2[most] = {}, decode2[most] = {}, stored2[most] = {}, sums[most], sums2[most];
      for (int b = 0; b < n; ++b) {
        const Scale scale = rule(float_of(maxima[b]));
        encode[b] = scale.encode, decode[b] = scale.decode, stored[b] = scale.stored;
      }
      for (int b = 0; b < n; ++b) {
        const Scale scale = rule.second(float_of(maxima[b]));
        encode2[b] = scale.encode, decode2[b] = scale.decode, stored2[b] = scale.stored;
      }
      error_sums(rule, layout, encode, stored, n, sums);
      error_sums(rule, layout, encode2, stored2, n, sums2);
      for (int b = 0; b < n; ++b) {
        const bool second = sums2[b] < sums[b];
        encode[b] = second ? encode2[b] : encode[b];
        if constexpr (WantStored) decode[b] = second ? stored2[b] : stored[b];
        else decode[b] = second ? decode2[b] : decode[b];
      }
    }
  });
}

// ---- elements ----
// How an element is rounded; `index` is its place in the matrix.
template <bool Divides>
struct ToNearest {
  static constexpr bool divides = Divides;
  ASSAY_QUANT_INLINE float operator()(float x, float encode, std::int64_t) const {
    return round_e2m1(scaled<Divides>(x, encode));
  }
};
template <bool Divides>
struct Stochastic {
  static constexpr bool divides = Divides;
  std::uint64_t key;
  ASSAY_QUANT_INLINE float operator()(float x, float encode, std::int64_t index) const {
    return round_e2m1_stochastic(scaled<Divides>(x, encode), random_bits(key, static_cast<std::uint64_t>(index)));
  }
};

template <bool MayDivide, class F>
ASSAY_QUANT_INLINE void with_rounding(const Spec& spec, F&& f) {
  const bool divides = MayDivide && (spec.mode == Mode::ct || spec.mode == Mode::ct_bf16);
  if (spec.rounding == Rounding::nearest_even) {
    if constexpr (MayDivide) {
      if (divides) return f(ToNearest<true>{});
    }
    return f(ToNearest<false>{});
  }
  const std::uint64_t key = random_key(spec.seed);
  if constexpr (MayDivide) {
    if (divides) return f(Stochastic<true>{key});
  }
  return f(Stochastic<false>{key});
}

// n values rounded with one scale. Counting is a loop of its own, before x may be overwritten.
template <class Round>
ASSAY_QUANT_INLINE std::int32_t count_sixes(const Round& round, const float* x, const float* encode, int step, int n,
                                            std::int64_t index) {
  std::int32_t sixes = 0;
  for (int i = 0; i < n; ++i) sixes += abs_bits(round(x[i], encode[i * step], index + i)) == 0x40c00000;
  return sixes;
}

// The largest magnitude of each of n blocks, as bits, and the largest of all.
template <int B>
ASSAY_TARGET std::int32_t block_maxima(const float* in, std::int32_t* maxima, int n) {
  std::int32_t worst = 0;
  int first = 0;
#if defined(ASSAY_AVX2)
  for (; first + 8 <= n; first += 8) eight_maxima<B>(in + first * B, maxima + first);
#endif
  for (int b = first; b < n; ++b) {
    std::int32_t m = 0;
#pragma GCC unroll 1  // or 16 steps are unrolled before the vectoriser sees them
    for (int i = 0; i < B; ++i) m = larger(m, abs_bits(in[b * B + i]));
    maxima[b] = m;
  }
  for (int b = 0; b < n; ++b) worst = larger(worst, maxima[b]);
  return worst;
}

// n blocks of finite elements, rounded under their scales.
template <int B>
ASSAY_TARGET void round_under_scales(Job& job, const float* in, float* out, [[maybe_unused]] const std::int32_t* maxima, const float* encode,
                                     const float* decode, int n, std::int64_t index) {
  with_rounding<B == 16>(job.spec, [&](const auto& round) ASSAY_QUANT_LAMBDA {
    if (job.count) {
      for (int b = 0; b < n; ++b) job.saturated += count_sixes(round, in + b * B, encode + b, 0, B, index + b * B);
    }
    const bool past_caches = job.stream && in != out && streamable(out);
#if defined(ASSAY_AVX2)
    if (multiplies_to_nearest(job.spec)) {
      return round_to_nearest<B>(past_caches, in, out, maxima, encode, decode, n);
    }
#endif
    float block[B];
    for (int b = 0; b < n; ++b) {
      const float to_code = encode[b], from_code = decode[b];
      float* to = past_caches ? block : out + b * B;
      prefetch(in + (n + b) * B, B);
#pragma GCC ivdep
#pragma GCC unroll 1
      for (int i = 0; i < B; ++i) to[i] = round(in[b * B + i], to_code, index + b * B + i) * from_code;
      if (past_caches) stream(block, out + b * B, sizeof block);
    }
  });
}

// n <= lanes whole blocks, one after the other in memory; `index` is the first element's.
template <int B>
ASSAY_TARGET void consecutive_blocks(Job& job, float a, const float* in, float* out, int n, std::int64_t index) {
  std::int32_t maxima[lanes];
  float encode[lanes], decode[lanes];
  if (block_maxima<B>(in, maxima, n) >= infinity_bits) {
    for (int b = 0; b < n; ++b) {
      const BlockShape shape{.width = B, .index = index + b * B};
      job.saturated += reference_block(job.spec, a, in + b * B, out + b * B, shape).saturated;
    }
    return;
  }
  scales<false>(job.spec.mode, a, {Layout::Kind::rows, in}, maxima, n, encode, decode);
  round_under_scales<B>(job, in, out, maxima, encode, decode, n, index);
}

// `rows` rows of n blocks, rows * n <= lanes, one after the other in memory, each row under its own maximum.
ASSAY_TARGET void rows_of_blocks(Job& job, const float* in, float* out, int rows, int n, std::int64_t index) {
  constexpr int B = 16;  // MXFP4 has no maximum but a block's
  std::int32_t maxima[lanes];
  float encode[lanes], decode[lanes], a[lanes];
  const bool finite = block_maxima<B>(in, maxima, rows * n) < infinity_bits;
  if (!finite) {
    for (int r = 0; r < rows; ++r)
      consecutive_blocks<B>(job, finite_max_fp32(in + r * n * B, n * B), in + r * n * B, out + r * n * B, n, index + r * n * B);
    return;
  }
  for (int r = 0; r < rows; ++r) {
    std::int32_t m = 0;
    for (int b = 0; b < n; ++b) m = larger(m, maxima[r * n + b]);
    for (int b = 0; b < n; ++b) a[r * n + b] = float_of(m);
  }
  with_rule(job.spec.mode, [&](auto tag) ASSAY_QUANT_LAMBDA {
    using Rule = typename decltype(tag)::type;
    if constexpr (Rule::candidates == 1) {
      for (int b = 0; b < rows * n; ++b) {
        const Scale scale = Rule(a[b])(float_of(maxima[b]));
        encode[b] = scale.encode;
        decode[b] = scale.decode;
      }
    } else {
      for (int b = 0; b < rows * n; b += n)
        scales<false>(job.spec.mode, a[b], {Layout::Kind::rows, in + b * B}, maxima + b, n, encode + b, decode + b);
    }
  });
  round_under_scales<B>(job, in, out, maxima, encode, decode, rows * n, index);
}

// Raises each of `width` maxima to the largest of its column, four rows at once. magnitude(x): as an integer.
template <class T, class Integer, class Magnitude>
ASSAY_QUANT_INLINE void column_maxima(const T* in, std::ptrdiff_t stride, int height, int width, Integer* maxima,
                                      const Magnitude& magnitude) {
  const auto most = [](Integer a, Integer b) ASSAY_QUANT_LAMBDA { return a > b ? a : b; };
  int r = 0;
  for (; r + 4 <= height; r += 4) {
    const T *a = in + r * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    for (int i = 0; i < width; ++i) {
      const Integer upper = most(magnitude(a[i]), magnitude(b[i])), lower = most(magnitude(c[i]), magnitude(d[i]));
      maxima[i] = most(maxima[i], most(upper, lower));
    }
  }
  for (; r < height; ++r)
    for (int i = 0; i < width; ++i) maxima[i] = most(maxima[i], magnitude(in[r * stride + i]));
}

// Of a strip's columns every 16 get their largest maximum.
ASSAY_QUANT_INLINE void share_among_tiles(std::int32_t* maxima, int width) {
  for (int first = 0; first < width; first += 16) {
    const int end = static_cast<int>(least(first + 16, width));
    std::int32_t m = 0;
    for (int c = first; c < end; ++c) m = larger(m, maxima[c]);
    for (int c = first; c < end; ++c) maxima[c] = m;
  }
}

// A strip of `height` rows and `width` <= strip_lanes columns; each column is a block, or every 16 of them a tile.
ASSAY_TARGET void strip(Job& job, const float* in, std::ptrdiff_t in_stride, float* out, std::ptrdiff_t out_stride,
                        int height, int width, std::int64_t index) {
  std::int32_t maxima[strip_lanes] = {};
  float encode[strip_lanes], decode[strip_lanes];
  const float a = job.tensor_max;
  column_maxima(in, in_stride, height, width, maxima, [](float x) ASSAY_QUANT_LAMBDA { return abs_bits(x); });
  std::int32_t worst = 0;
  for (int c = 0; c < width; ++c) worst = larger(worst, maxima[c]);
  if (worst >= infinity_bits) {
    const int step = job.spec.tiles ? 16 : 1;
    for (int c = 0; c < width; c += step) {
      float block[256];
      const int block_width = static_cast<int>(least(step, width - c));
      for (int r = 0; r < height; ++r)
        for (int i = 0; i < block_width; ++i) block[r * step + i] = in[r * in_stride + c + i];
      const BlockShape shape{height, block_width, step, 1, index + c, job.in.cols};
      job.saturated += reference_block(job.spec, a, block, block, shape).saturated;
      for (int r = 0; r < height; ++r)
        for (int i = 0; i < block_width; ++i) out[r * out_stride + c + i] = block[r * step + i];
    }
    return;
  }
  if (job.spec.tiles) share_among_tiles(maxima, width);
  const auto kind = job.spec.tiles ? Layout::Kind::tiles : Layout::Kind::columns;
  scales<false>(job.spec.mode, a, {kind, in, in_stride, height}, maxima, width, encode, decode);
  with_rounding<true>(job.spec, [&](const auto& round) ASSAY_QUANT_LAMBDA {
    const bool past_caches = job.stream && in != out;
#if defined(ASSAY_AVX2)
    if (multiplies_to_nearest(job.spec) && !job.count) {
      return round_strip_to_nearest(past_caches, in, in_stride, out, out_stride, maxima, encode, decode, height, width);
    }
#endif
    float line[strip_lanes];
    for (int r = 0; r < height; ++r) {
      const float* from = in + r * in_stride;
      float* to = past_caches ? line : out + r * out_stride;
      const std::int64_t at = index + r * job.in.cols;
      prefetch(from + width, width);
      if (job.count) job.saturated += count_sixes(round, from, encode, 1, width, at);
      for (int c = 0; c < width; ++c) to[c] = round(from[c], encode[c], at + c) * decode[c];
      if (past_caches) stream(line, out + r * out_stride, static_cast<std::size_t>(width) * 4);
    }
  });
}

}  // namespace
}  // namespace assay::quant::simd
