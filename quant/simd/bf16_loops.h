// The loops of loops.h for bf16 where it lies, without widening an element: included after it, for the same processors.
//
// A bf16 number's absolute value compares like its bits, and rounding to E2M1 does not decrease: under one scale each of
// the seven levels above 0 begins at one bf16 number. A level is a power of two times level 1 or level 1.5, and so are the
// numbers where levels begin and what they become: as bits they repeat every octave, 128 apart. So a block's scale is
// turned once into Levels, and an element takes sixteen instructions on 16 bits, twice as many elements at once as in
// fp32. The bits are those of block.h's arithmetic: the bounds are found by it.

#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(__GNUC__) && !defined(__clang__)
// No vector is passed between functions: all that take one are inlined.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace assay::quant::simd {
namespace {

// MXFP4's results are bf16 numbers (two significant bits times a power of two, not below 2^-128), so there is nothing to
// round.
template <bool Mxfp4>
ASSAY_QUANT_INLINE std::uint16_t narrowed(float x) {
  if constexpr (Mxfp4) return static_cast<std::uint16_t>(static_cast<std::uint32_t>(bits_of(x)) >> 16);
  return result_to_bf16(x);
}

// The first floats that round_e2m1 takes to .5, 1, 1.5 and 2: the midpoint where a tie goes to the upper, even code,
// otherwise the float behind it.
constexpr float level_starts[4] = {0x1.000002p-2f, 0.75f, 0x1.400002p+0f, 1.75f};
constexpr std::int16_t octave = 1 << 7;

// Of N scales at most, as bf16 bits.
template <int N>
struct Levels {
  std::int16_t below_half[N], below_1[N];  // the largest magnitude that does not reach the level
  std::int16_t reaches_3_halves[N];        // the smallest that does
  std::int16_t below_2[N];                 // the largest that does not reach it, less reaches_3_halves
  std::int16_t half[N];                    // what level .5 becomes,
  std::int16_t of_3_halves[N];             // level 1.5, an octave lower,
  std::int16_t from_3_halves_to_2[N];      // and level 2, less level 1.5
  std::int16_t unused[15];                 // broadcast() reads on behind the one it wants
};

// Scales outside are left to the fp32 loops: none of the products above and below then leaves the normal numbers.
constexpr float least_scale = 0x1p-100f, most_scale = 0x1p100f;

ASSAY_TARGET bool have_levels(const float* encode, const float* decode, int n) {
  std::int32_t inside = 1;
  for (int b = 0; b < n; ++b) inside &= (encode[b] >= least_scale) & (encode[b] <= most_scale);
  for (int b = 0; b < n; ++b) inside &= (decode[b] >= least_scale) & (decode[b] <= most_scale);
  return inside != 0;
}

template <int N>
ASSAY_TARGET void find_levels(const float* encode, const float* decode, int n, Levels<N>& to) {
  float inverse[N];
  // A little less than 1 / encode: the quotient below then stays under the bound although it is rounded three times.
  for (int b = 0; b < n; ++b) inverse[b] = (1.0f - 0x1p-20f) / encode[b];
  std::int16_t* below[4] = {to.below_half, to.below_1, to.reaches_3_halves, to.below_2};
  for (int i = 0; i < 4; ++i) {
    const float start = level_starts[i];
    std::int16_t* bound = below[i];
    for (int b = 0; b < n; ++b) {
      // The bf16 number behind the quotient is the level's first, or the one before that: 2^-19 is less than their distance.
      const std::int32_t next = (bits_of(start * inverse[b]) >> 16) + 1;
      const bool reaches = float_of(next << 16) * encode[b] >= start;
      bound[b] = static_cast<std::int16_t>(next - (reaches ? 1 : 0));
    }
  }
  for (int b = 0; b < n; ++b) to.half[b] = static_cast<std::int16_t>(result_to_bf16(decode[b]) - octave);
  for (int b = 0; b < n; ++b) {
    to.of_3_halves[b] = static_cast<std::int16_t>(result_to_bf16(1.5f * decode[b]) - octave);
  }
  for (int b = 0; b < n; ++b) {
    to.reaches_3_halves[b] = static_cast<std::int16_t>(to.reaches_3_halves[b] + 1);
    to.below_2[b] = static_cast<std::int16_t>(to.below_2[b] - to.reaches_3_halves[b]);
    to.from_3_halves_to_2[b] = static_cast<std::int16_t>(to.half[b] + octave - to.of_3_halves[b]);
  }
}

// Sixteen at once: the vectoriser does not see through seven selections, so they are written as a vector.
using Sixteen = std::int16_t __attribute__((vector_size(32)));

ASSAY_QUANT_INLINE Sixteen sixteen(const void* from) {
  Sixteen x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// A shuffle of sixteen, and not sixteen times one: of those g++ 12 makes fifteen insertions.
ASSAY_QUANT_INLINE Sixteen broadcast(const std::int16_t* x) {
  const Sixteen from_x = sixteen(x);
  return __builtin_shufflevector(from_x, from_x, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
}

// The levels that sixteen elements need: all those of one scale, or each those of its own.
struct SixteenLevels {
  Sixteen below_half, below_1, reaches_3_halves, below_2, half, of_3_halves, from_3_halves_to_2;
};
template <int N>
ASSAY_QUANT_INLINE SixteenLevels of_one(const Levels<N>& l, int b) {
  return {broadcast(l.below_half + b), broadcast(l.below_1 + b),     broadcast(l.reaches_3_halves + b),
          broadcast(l.below_2 + b),    broadcast(l.half + b),        broadcast(l.of_3_halves + b),
          broadcast(l.from_3_halves_to_2 + b)};
}
template <int N>
ASSAY_QUANT_INLINE SixteenLevels of_each(const Levels<N>& l, int c) {
  return {sixteen(l.below_half + c), sixteen(l.below_1 + c),     sixteen(l.reaches_3_halves + c),
          sixteen(l.below_2 + c),    sixteen(l.half + c),        sixteen(l.of_3_halves + c),
          sixteen(l.from_3_halves_to_2 + c)};
}

ASSAY_QUANT_INLINE void by_levels(const std::uint16_t* from, std::uint16_t* to, const SixteenLevels& l) {
  const Sixteen x = sixteen(from), magnitude = x & 0x7fff;
  const Sixteen above = magnitude - l.reaches_3_halves, within = above & (octave - 1);
  const Sixteen reaches_2 = within > l.below_2;  // or, octaves further, 4, 1, .5 ...
  // Everything an octave lower than it is, until it is known whether it reaches level 1; levels .75 and less become .5.
  Sixteen y = (above - within) + l.of_3_halves + (reaches_2 & l.from_3_halves_to_2);
  y = y > l.half ? y : l.half;
  const Sixteen six = l.of_3_halves + static_cast<std::int16_t>(2 * octave);
  y = y < six ? y : six;
  y -= (magnitude > l.below_1) << 7;
  y &= magnitude > l.below_half;
  y |= x ^ magnitude;
  std::memcpy(to, &y, sizeof y);
}

// A strip's rows, one after the other: put(from, to, c0) writes `width` results of a row.
template <class Put>
ASSAY_QUANT_INLINE void each_row(const Job& job, const std::uint16_t* in, std::ptrdiff_t in_stride, std::uint16_t* out,
                                 std::ptrdiff_t out_stride, int height, int width, const Put& put) {
  std::uint16_t past_caches[strip_lanes];
  for (int r = 0; r < height; ++r) {
    const std::uint16_t* from = in + r * in_stride;
    prefetch(from + width, width);
    put(from, job.stream ? past_caches : out + r * out_stride, r);
    if (job.stream) stream(past_caches, out + r * out_stride, static_cast<std::size_t>(width) * 2);
  }
}

ASSAY_TARGET void strip_by_levels(const Job& job, const Levels<strip_lanes>& levels, const std::uint16_t* in,
                                  std::ptrdiff_t in_stride, std::uint16_t* out, std::ptrdiff_t out_stride, int height,
                                  int width) {
  each_row(job, in, in_stride, out, out_stride, height, width,
           [&](const std::uint16_t* from, std::uint16_t* to, int) ASSAY_QUANT_LAMBDA {
    int c = 0;
    for (; c + 16 <= width; c += 16) by_levels(from + c, to + c, of_each(levels, c));
    if (c == width) return;
    std::uint16_t rest[16] = {};
    std::memcpy(rest, from + c, sizeof *from * static_cast<std::size_t>(width - c));
    by_levels(rest, rest, of_each(levels, c));
    std::memcpy(to + c, rest, sizeof *from * static_cast<std::size_t>(width - c));
  });
}

}  // namespace
}  // namespace assay::quant::simd

#if defined(ASSAY_AVX2)
#include "quant/simd/bf16_tables.h"
#endif

namespace assay::quant::simd {
namespace {

ASSAY_QUANT_INLINE Sixteen larger_of(const Sixteen& a, const Sixteen& b) { return a > b ? a : b; }

// Eight largest magnitudes of a block each, as bits of their fp32 values, from `in` on. Pairs of blocks are reduced
// together: three rounds of interleaving (within halves, as AVX2 does) for eight blocks, instead of three shuffles for
// each. Two maxima of each block are left.
template <int B>
ASSAY_QUANT_INLINE void eight_maxima(const std::uint16_t* in, std::int32_t* maxima) {
  Sixteen m[8];
  for (int b = 0; b < 8; ++b) {
    m[b] = sixteen(in + b * B) & 0x7fff;
    if constexpr (B == 32) m[b] = larger_of(m[b], sixteen(in + b * B + 16) & 0x7fff);
  }
  for (int half = 4; half > 0; half /= 2) {
    for (int b = 0; b < half; ++b) {
      m[b] = larger_of(
          __builtin_shufflevector(m[b], m[b + half], 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27),
          __builtin_shufflevector(m[b], m[b + half], 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31));
    }
  }
  std::int16_t two[16];
  std::memcpy(two, &m[0], sizeof two);
  for (int b = 0; b < 8; ++b) maxima[b] = (two[b] > two[b + 8] ? two[b] : two[b + 8]) << 16;
}

template <int B>
ASSAY_TARGET bool consecutive_bf16(Job& job, float a, const std::uint16_t* in, std::uint16_t* out, int n,
                                   std::int64_t index) {
  constexpr bool mxfp4 = B == 32;
  std::int32_t maxima[lanes];
  float encode[lanes], decode[lanes];
  std::int32_t worst = 0;
  int b = 0;
  for (; b + 8 <= n; b += 8) eight_maxima<B>(in + b * B, maxima + b);
  for (; b < n; ++b) {
    std::int16_t m = 0;
#pragma GCC unroll 1
    for (int i = 0; i < B; ++i) {
      const auto bits = static_cast<std::int16_t>(in[b * B + i] & 0x7fff);
      m = m > bits ? m : bits;
    }
    maxima[b] = m << 16;
  }
  for (b = 0; b < n; ++b) worst = larger(worst, maxima[b]);
  if (worst >= infinity_bits) return false;
#if defined(ASSAY_AVX2)
  if (multiplies_to_nearest(job.spec) && rows_by_tables<B>(job, in, out, maxima, n)) return true;
#endif
  scales<false>(job.spec.mode, a, {Layout::Kind::rows, nullptr}, maxima, n, encode, decode);
  if (multiplies_to_nearest(job.spec) && have_levels(encode, decode, n)) {
    Levels<lanes> found;
    find_levels(encode, decode, n, found);
    for (b = 0; b < n; ++b) {
      const SixteenLevels levels = of_one(found, b);
      for (int i = b * B; i < (b + 1) * B; i += 16) by_levels(in + i, out + i, levels);
    }
    return true;
  }
  with_rounding<!mxfp4>(job.spec, [&](const auto& round) ASSAY_QUANT_LAMBDA {
    for (b = 0; b < n; ++b) {
      const float to_code = encode[b], from_code = decode[b];
      const std::uint16_t* from = in + b * B;
      std::uint16_t* to = out + b * B;
      prefetch(from + n * B, B);
#pragma GCC ivdep
#pragma GCC unroll 1
      for (int i = 0; i < B; ++i) {
        to[i] = narrowed<mxfp4>(round(from_bf16(from[i]), to_code, index + b * B + i) * from_code);
      }
    }
  });
  return true;
}

template <bool Mxfp4>
ASSAY_TARGET void strip_elements(const Job& job, const float* encode, const float* decode, const std::uint16_t* in,
                                 std::ptrdiff_t in_stride, std::uint16_t* out, std::ptrdiff_t out_stride, int height,
                                 int width, std::int64_t index) {
  if (multiplies_to_nearest(job.spec) && have_levels(encode, decode, width)) {
    Levels<strip_lanes> found;
    find_levels(encode, decode, width, found);
    // The results of a last, partial vector are not kept behind `width`; its bounds are set all the same.
    for (std::int16_t* row : {found.below_half, found.below_1, found.reaches_3_halves, found.below_2, found.half,
                              found.of_3_halves, found.from_3_halves_to_2})
      for (int c = width; c % 16 != 0; ++c) row[c] = 0;
    return strip_by_levels(job, found, in, in_stride, out, out_stride, height, width);
  }
  with_rounding<!Mxfp4>(job.spec, [&](const auto& round) ASSAY_QUANT_LAMBDA {
    each_row(job, in, in_stride, out, out_stride, height, width,
             [&](const std::uint16_t* from, std::uint16_t* to, int r) ASSAY_QUANT_LAMBDA {
      const std::int64_t at = index + r * job.in.cols;
#pragma GCC ivdep
      for (int c = 0; c < width; ++c) to[c] = narrowed<Mxfp4>(round(from_bf16(from[c]), encode[c], at + c) * decode[c]);
    });
  });
}

ASSAY_TARGET bool strip_bf16(Job& job, const std::uint16_t* in, std::ptrdiff_t in_stride, std::uint16_t* out,
                             std::ptrdiff_t out_stride, int height, int width, std::int64_t index) {
  std::int16_t maxima_16[strip_lanes] = {};
  std::int32_t maxima[strip_lanes];
  float encode[strip_lanes], decode[strip_lanes];
  column_maxima(in, in_stride, height, width, maxima_16,
                [](std::uint16_t x) ASSAY_QUANT_LAMBDA { return static_cast<std::int16_t>(x & 0x7fff); });
  std::int32_t worst = 0;
  for (int c = 0; c < width; ++c) {
    maxima[c] = maxima_16[c] << 16;
    worst = larger(worst, maxima[c]);
  }
  if (worst >= infinity_bits) return false;
  if (job.spec.tiles) share_among_tiles(maxima, width);
#if defined(ASSAY_AVX2)
  if (multiplies_to_nearest(job.spec) && strip_by_tables(job, maxima, in, in_stride, out, out_stride, height, width)) return true;
#endif
  scales<false>(job.spec.mode, job.tensor_max, {Layout::Kind::columns, nullptr}, maxima, width, encode, decode);
  const auto elements = job.spec.format == Format::mxfp4 ? strip_elements<true> : strip_elements<false>;
  elements(job, encode, decode, in, in_stride, out, out_stride, height, width, index);
  return true;
}

}  // namespace
}  // namespace assay::quant::simd
