// What loops.h leaves to the vectoriser, by hand where that shows in the time: largest magnitudes and rounding to nearest
// of fp32, and maxima of a strip. Included by it for avx2.cpp and avx512.cpp; the same operations as block.h's, in the
// same order, so the same bits.

#include <immintrin.h>

namespace assay::quant::simd {
namespace {

ASSAY_TARGET ASSAY_QUANT_INLINE __m256i magnitudes(const float* x) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), _mm256_set1_epi32(abs_mask));
}

// Eight largest magnitudes of a block of B each, as bits. Blocks are reduced together: three rounds of interleaving for
// eight of them, instead of three shuffles for each.
template <int B>
ASSAY_TARGET ASSAY_QUANT_INLINE void eight_maxima(const float* in, std::int32_t* maxima) {
  __m256i m[8];
  for (int b = 0; b < 8; ++b) {
    m[b] = magnitudes(in + b * B);
    for (int i = 8; i < B; i += 8) m[b] = _mm256_max_epi32(m[b], magnitudes(in + b * B + i));
  }
  __m256i pairs[4], fours[2];
  for (int b = 0; b < 4; ++b)
    pairs[b] = _mm256_max_epi32(_mm256_unpacklo_epi32(m[2 * b], m[2 * b + 1]),
                                _mm256_unpackhi_epi32(m[2 * b], m[2 * b + 1]));
  for (int b = 0; b < 2; ++b)
    fours[b] = _mm256_max_epi32(_mm256_unpacklo_epi64(pairs[2 * b], pairs[2 * b + 1]),
                                _mm256_unpackhi_epi64(pairs[2 * b], pairs[2 * b + 1]));
  const __m256i all = _mm256_max_epi32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                                       _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(maxima), all);
}

// round_e2m1(x * encode) * decode. Without Saturates |x * encode| is less than 7, which is not rounded to 8; then the
// signed number is rounded as it is, by 1.5 times the power of two that round_to_grid() adds to its magnitude: their sum
// has the same last bit.
template <bool Saturates>
ASSAY_TARGET ASSAY_QUANT_INLINE __m256 rounded(__m256 x, __m256 encode, __m256 decode) {
  const __m256i y = _mm256_castps_si256(_mm256_mul_ps(x, encode));
  const __m256i sign = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(~abs_mask));
  __m256i v = y;
  if constexpr (Saturates) {
    v = _mm256_min_epi32(_mm256_and_si256(y, _mm256_set1_epi32(abs_mask)), _mm256_set1_epi32(0x40c00000 /* 6.0f */));
  }
  const __m256i exponent = _mm256_max_epi32(_mm256_and_si256(v, _mm256_set1_epi32(exponent_mask)),
                                            _mm256_set1_epi32(127 << 23));
  const __m256 c = _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32((22 << 23) | (Saturates ? 0 : 1 << 22))));
  const __m256 q = _mm256_sub_ps(_mm256_add_ps(_mm256_castsi256_ps(v), c), c);
  return _mm256_mul_ps(_mm256_or_ps(q, _mm256_castsi256_ps(sign)), decode);
}

template <bool Past>
ASSAY_TARGET ASSAY_QUANT_INLINE void put(float* to, __m256 y) {
  if constexpr (Past) _mm256_stream_ps(to, y);
  else _mm256_storeu_ps(to, y);
}

template <int B, bool Saturates, bool Past>
ASSAY_TARGET void round_blocks(const float* in, float* out, const float* encode, const float* decode, int n) {
  for (int b = 0; b < n; ++b) {
    const __m256 to_code = _mm256_broadcast_ss(encode + b), from_code = _mm256_broadcast_ss(decode + b);
    prefetch(in + (n + b) * B, B);
    for (int i = b * B; i < (b + 1) * B; i += 8) {
      put<Past>(out + i, rounded<Saturates>(_mm256_loadu_ps(in + i), to_code, from_code));
    }
  }
}

template <bool Saturates, bool Past>
ASSAY_TARGET void round_row(const float* in, float* out, const float* encode, const float* decode, int width) {
  int c = 0;
  for (; c + 8 <= width; c += 8) {
    put<Past>(out + c, rounded<Saturates>(_mm256_loadu_ps(in + c), _mm256_loadu_ps(encode + c), _mm256_loadu_ps(decode + c)));
  }
  for (; c < width; ++c) out[c] = round_e2m1(in[c] * encode[c]) * decode[c];
}

// Whether no element of blocks with these maxima is rounded to more than 6.
ASSAY_TARGET bool below_7(const std::int32_t* maxima, const float* encode, int n) {
  std::int32_t most = 0;  // as bits: a maximum of floats is not vectorised
  for (int b = 0; b < n; ++b) most = larger(most, bits_of(float_of(maxima[b]) * encode[b]));
  return most < bits_of(7.0f);
}

ASSAY_TARGET bool aligned(const void* to) { return reinterpret_cast<std::uintptr_t>(to) % 32 == 0; }

template <int B>
ASSAY_TARGET void round_to_nearest(bool past_caches, const float* in, float* out, const std::int32_t* maxima,
                                   const float* encode, const float* decode, int n) {
  const bool below = below_7(maxima, encode, n);
  if (past_caches && !aligned(out)) {
    float results[lanes * B];
    round_blocks<B, true, false>(in, results, encode, decode, n);
    return stream(results, out, static_cast<std::size_t>(n) * B * 4);
  }
  const auto round = past_caches ? (below ? round_blocks<B, false, true> : round_blocks<B, true, true>)
                                 : (below ? round_blocks<B, false, false> : round_blocks<B, true, false>);
  round(in, out, encode, decode, n);
}

ASSAY_TARGET void round_strip_to_nearest(bool past_caches, const float* in, std::ptrdiff_t in_stride, float* out,
                                         std::ptrdiff_t out_stride, const std::int32_t* maxima, const float* encode,
                                         const float* decode, int height, int width) {
  const bool below = below_7(maxima, encode, width);
  const bool by_lines = past_caches && !(aligned(out) && out_stride % 8 == 0);
  const auto round = past_caches && !by_lines ? (below ? round_row<false, true> : round_row<true, true>)
                                              : (below ? round_row<false, false> : round_row<true, false>);
  float line[strip_lanes];
  for (int r = 0; r < height; ++r) {
    prefetch(in + r * in_stride + width, width);
    round(in + r * in_stride, by_lines ? line : out + r * out_stride, encode, decode, width);
    if (by_lines) stream(line, out + r * out_stride, static_cast<std::size_t>(width) * 4);
  }
}

}  // namespace
}  // namespace assay::quant::simd
