// The one source of all builds (avx2.cpp, avx512.cpp, portable.cpp); the includer defines ASSAY_KERNEL_SPACE, and
// ASSAY_KERNEL_WIDE for products in vectors of 16.
// Nothing from the C++ library that could be emitted with AVX2 code and then shared with other files.
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __FMA__
#include <immintrin.h>
#endif

#include "trainer/model/kernels/kernels.h"

namespace assay::train::kernels::ASSAY_KERNEL_SPACE {
namespace {

typedef float v8 __attribute__((vector_size(32)));
typedef float v8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef std::int32_t i8 __attribute__((vector_size(32)));

#define ASSAY_INLINE inline __attribute__((always_inline))

ASSAY_INLINE v8 load(const float* p) { return *reinterpret_cast<const v8u*>(p); }
ASSAY_INLINE void store(float* p, v8 x) { *reinterpret_cast<v8u*>(p) = x; }
ASSAY_INLINE v8 splat(float x) { return v8{x, x, x, x, x, x, x, x}; }
ASSAY_INLINE i8 first_lanes(i64 n) { return i8{0, 1, 2, 3, 4, 5, 6, 7} < static_cast<std::int32_t>(n); }
ASSAY_INLINE v8 load_part(const float* p, i64 n, float fill) {  // n of 8 elements
#ifdef __AVX2__
  const i8 on = first_lanes(n);
  const v8 x = (v8)_mm256_maskload_ps(p, (__m256i)on);
  return on ? x : splat(fill);
#else
  v8 x = splat(fill);
  for (i64 i = 0; i < n; ++i) x[i] = p[i];
  return x;
#endif
}
ASSAY_INLINE void store_part(float* p, v8 x, i64 n) {
#ifdef __AVX2__
  _mm256_maskstore_ps(p, (__m256i)first_lanes(n), (__m256)x);
#else
  for (i64 i = 0; i < n; ++i) p[i] = x[i];
#endif
}
ASSAY_INLINE float sum(v8 x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
ASSAY_INLINE v8 max(v8 a, v8 b) { return a > b ? a : b; }
ASSAY_INLINE float largest(v8 x) {
  float m = x[0];
  for (int i = 1; i < 8; ++i) m = x[i] > m ? x[i] : m;
  return m;
}
ASSAY_INLINE v8 fma(v8 a, v8 b, v8 c) {
#ifdef __FMA__
  return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// e^x within 2 ulp; 0 below -87.3, and e^88.02 above that.
// Range reduction x = n ln 2 + r, |r| <= ln 2 / 2, and the degree-6 polynomial of Cephes' expf.
// NaN stays NaN.
ASSAY_INLINE v8 exp(v8 x) {
  const v8 low = splat(-87.33654f), high = splat(88.02f);
  const v8 magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const i8 tiny = x < low;
  v8 y = x > high ? high : x;
  y = y < low ? low : y;
  const v8 n = (y * splat(1.44269504f) + magic) - magic;
  v8 r = y - n * splat(0.693359375f);
  r = r + n * splat(2.12194440e-4f);
  v8 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + splat(1.f));
  i8 bits = __builtin_convertvector(n, i8);
  bits = (bits + 127) << 23;
  const v8 scaled = p * (v8)bits;
  const v8 zeroed = tiny ? splat(0.f) : scaled;
  return x != x ? x : zeroed;
}

// ---- products ----

// MR rows of A times NV * 8 columns of B, over k in [0, length). B's rows are ldb apart.
template <int MR, int NV>
ASSAY_INLINE void tile(i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c, i64 ldc,
                       i64 columns, float alpha, const float* bias, bool accumulate) {
  v8 acc[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = splat(0.f);
  for (i64 k = 0; k < length; ++k) {
    v8 bk[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) bk[j] = load(b + k * ldb + 8 * j);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const v8 ai = splat(a[i * a_row + k * a_col]);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] = fma(ai, bk[j], acc[i][j]);
    }
  }
  const v8 scale = splat(alpha);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      float* to = c + i * ldc + 8 * j;
      const i64 left = columns - 8 * j;
      if (left >= 8) {
        const v8 from = accumulate ? load(to) : bias ? load(bias + 8 * j) : splat(0.f);
        store(to, from + scale * acc[i][j]);
      } else if (left > 0) {
        const v8 from = accumulate ? load_part(to, left, 0) : bias ? load_part(bias + 8 * j, left, 0) : splat(0.f);
        store_part(to, from + scale * acc[i][j], left);
      }
    }
  }
}

#ifdef ASSAY_KERNEL_WIDE
typedef float v16 __attribute__((vector_size(64)));
typedef float v16u __attribute__((vector_size(64), aligned(4), may_alias));

ASSAY_INLINE v16 splat16(float x) { return v16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
ASSAY_INLINE v8 low(v16 x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7); }
ASSAY_INLINE v8 high(v16 x) { return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15); }
ASSAY_INLINE v16 fma(v16 a, v16 b, v16 c) {
#ifdef __AVX512F__
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else  // the test's build, on a processor without
  return __builtin_shufflevector(fma(low(a), low(b), low(c)), fma(high(a), high(b), high(c)), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                 10, 11, 12, 13, 14, 15);
#endif
}

// tile<MR, 2>, each sum in the same order, so the same bits: a panel is one vector, and 14 rows of it hide the latency.
template <int MR>
ASSAY_INLINE void tile16(i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c, i64 ldc,
                         i64 columns, float alpha, const float* bias, bool accumulate) {
  v16 acc[MR];
#pragma GCC unroll 14
  for (int i = 0; i < MR; ++i) acc[i] = v16{};
  for (i64 k = 0; k < length; ++k) {
    const v16 bk = *reinterpret_cast<const v16u*>(b + k * ldb);
#pragma GCC unroll 14
    for (int i = 0; i < MR; ++i) acc[i] = fma(splat16(a[i * a_row + k * a_col]), bk, acc[i]);
  }
#pragma GCC unroll 14
  for (int i = 0; i < MR; ++i) {
    const v16 product = splat16(alpha) * acc[i];
    float* to = c + i * ldc;
    const float* from = accumulate ? to : bias;
    const auto start = [&](i64 at, i64 n) { return !from ? splat(0.f) : n == 8 ? load(from + at) : load_part(from + at, n, 0); };
    store(to, start(0, 8) + low(product));
    if (columns == 16)
      store(to + 8, start(8, 8) + high(product));
    else
      store_part(to + 8, start(8, columns - 8) + high(product), columns - 8);
  }
}

ASSAY_INLINE void panel_rows(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c,
                             i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  for (; m >= 14; m -= 14, a += 14 * a_row, c += 14 * ldc)
    tile16<14>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate);
  if (m >= 8) {
    tile16<8>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate);
    m -= 8, a += 8 * a_row, c += 8 * ldc;
  }
  switch (m) {
    case 7: tile16<7>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 6: tile16<6>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 5: tile16<5>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 4: tile16<4>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 3: tile16<3>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 2: tile16<2>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 1: tile16<1>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    default: break;
  }
}
#endif

template <int NV>
ASSAY_INLINE void rows(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c,
                       i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  for (; m >= 6; m -= 6, a += 6 * a_row, c += 6 * ldc)
    tile<6, NV>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate);
  switch (m) {
    case 5: tile<5, NV>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 4: tile<4, NV>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 3: tile<3, NV>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 2: tile<2, NV>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    case 1: tile<1, NV>(length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate); break;
    default: break;
  }
}

// Not inlined: two instances of the tiles, shared by both forms of the product.
__attribute__((noinline)) void rows16(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb,
                                      float* c, i64 ldc, i64 columns, float alpha, const float* bias,
                                      bool accumulate) {
#ifdef ASSAY_KERNEL_WIDE
  panel_rows(m, length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate);
#else
  rows<2>(m, length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate);
#endif
}
__attribute__((noinline)) void rows8(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb,
                                     float* c, i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  rows<1>(m, length, a, a_row, a_col, b, ldb, c, ldc, columns, alpha, bias, accumulate);
}

ASSAY_INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

constexpr i64 row_block = 96;  // rows of A that stay in the second-level cache while all panels pass

void gemm_packed(i64 m, const float* a, i64 a_row, i64 a_col, const Packed& b, i64 first, i64 last, float* c, i64 ldc,
                 float alpha, const float* bias, bool accumulate) {
  if (b.k == 0) {
    for (i64 i = 0; i < m; ++i)
      for (i64 j = first; j < last; ++j)
        if (!accumulate) c[i * ldc + j] = bias ? bias[j] : 0.f;
    return;
  }
  for (i64 m0 = 0; m0 < m; m0 += row_block) {
    const i64 mb = least(row_block, m - m0);
    for (i64 k0 = 0; k0 < b.k; k0 += gemm_chunk) {
      const i64 kb = least(gemm_chunk, b.k - k0);
      const bool add = accumulate || k0 > 0;
      const float* ak = a + m0 * a_row + k0 * a_col;
      for (i64 n0 = first; n0 < last; n0 += panel) {
        const float* bk = b.data.data() + n0 * b.k + k0 * panel;
        const i64 columns = least(panel, last - n0);
        const float* from = bias ? bias + n0 : nullptr;
        float* to = c + m0 * ldc + n0;
        if (columns > 8)
          rows16(mb, kb, ak, a_row, a_col, bk, panel, to, ldc, columns, alpha, from, add);
        else
          rows8(mb, kb, ak, a_row, a_col, bk, panel, to, ldc, columns, alpha, from, add);
      }
    }
  }
}

void gemm(i64 m, i64 n, i64 k, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c, i64 ldc,
          float alpha, bool accumulate) {
  if (k == 0) {
    if (!accumulate)
      for (i64 i = 0; i < m; ++i) std::memset(c + i * ldc, 0, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  alignas(64) float edge[gemm_chunk * panel];  // a panel that must not be read where it lies: its last columns
  for (i64 k0 = 0; k0 < k; k0 += gemm_chunk) {
    const i64 kb = least(gemm_chunk, k - k0);
    const bool add = accumulate || k0 > 0;
    const float* ak = a + k0 * a_col;
    i64 n0 = 0;
    // One or two rows, as attention has while decoding: four panels, or two, at once, or each sum waits for its last one.
    for (; m == 1 && n0 + 64 <= n; n0 += 64)
      tile<1, 8>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, c + n0, ldc, 64, alpha, nullptr, add);
    for (; m == 1 && n0 + 32 <= n; n0 += 32)
      tile<1, 4>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, c + n0, ldc, 32, alpha, nullptr, add);
    for (; m == 2 && n0 + 32 <= n; n0 += 32)
      tile<2, 4>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, c + n0, ldc, 32, alpha, nullptr, add);
    for (; n0 < n; n0 += panel) {
      const i64 columns = least(panel, n - n0);
      const float* bk = b + k0 * ldb + n0;
      i64 stride = ldb;
      if (columns % 8 != 0 || m > 64) {  // ragged, or used often enough to be worth bringing together
        for (i64 i = 0; i < kb; ++i) {
          for (i64 j = 0; j < columns; ++j) edge[i * panel + j] = bk[i * ldb + j];
          for (i64 j = columns; j < panel; ++j) edge[i * panel + j] = 0.f;
        }
        bk = edge;
        stride = panel;
      }
      if (columns > 8)
        rows16(m, kb, ak, a_row, a_col, bk, stride, c + n0, ldc, columns, alpha, nullptr, add);
      else
        rows8(m, kb, ak, a_row, a_col, bk, stride, c + n0, ldc, columns, alpha, nullptr, add);
    }
  }
}

// ---- rows ----

// f(vector of 8, index, count) over n elements; the last may hold fewer than 8.
template <class F>
ASSAY_INLINE void each8(i64 n, F f) {
  i64 i = 0;
  for (; i + 8 <= n; i += 8) f(i, i64{8});
  if (i < n) f(i, n - i);
}
ASSAY_INLINE v8 take(const float* p, i64 n, float fill = 0.f) { return n == 8 ? load(p) : load_part(p, n, fill); }
ASSAY_INLINE void put(float* p, v8 x, i64 n) {
  if (n == 8)
    store(p, x);
  else
    store_part(p, x, n);
}

void rms_norm(i64 m, i64 d, const float* x, const float* w, float eps, float* y, float* inv) {
  for (i64 i = 0; i < m; ++i, x += d, y += d) {
    v8 squares = splat(0.f);
    each8(d, [&](i64 j, i64 n) {
      const v8 v = take(x + j, n);
      squares = fma(v, v, squares);
    });
    const float r = 1.f / std::sqrt(sum(squares) / static_cast<float>(d) + eps);
    if (inv) inv[i] = r;
    each8(d, [&](i64 j, i64 n) { put(y + j, take(x + j, n) * splat(r) * take(w + j, n), n); });
  }
}

void rms_norm_backward(i64 m, i64 d, const float* x, const float* w, const float* inv, const float* dy, float* dx,
                       float* dw) {
  for (i64 i = 0; i < m; ++i, x += d, dy += d, dx += d) {
    v8 dots = splat(0.f);
    each8(d, [&](i64 j, i64 n) { dots = fma(take(dy + j, n) * take(w + j, n), take(x + j, n), dots); });
    const v8 r = splat(inv[i]);
    const v8 pull = splat(sum(dots) * inv[i] * inv[i] / static_cast<float>(d));
    each8(d, [&](i64 j, i64 n) {
      put(dx + j, r * (take(dy + j, n) * take(w + j, n) - take(x + j, n) * pull), n);
    });
    if (dw) each8(d, [&](i64 j, i64 n) { put(dw + j, take(dw + j, n) + take(dy + j, n) * take(x + j, n) * r, n); });
  }
}

void swiglu(i64 count, const float* gate, const float* up, float* y) {
  each8(count, [&](i64 i, i64 n) {
    const v8 g = take(gate + i, n);
    put(y + i, g / (splat(1.f) + exp(-g)) * take(up + i, n), n);
  });
}

void swiglu_backward(i64 count, const float* gate, const float* up, const float* dy, float* dgate, float* dup) {
  each8(count, [&](i64 i, i64 n) {
    const v8 g = take(gate + i, n), one = splat(1.f), d = take(dy + i, n);
    const v8 s = one / (one + exp(-g));
    put(dgate + i, d * take(up + i, n) * (s * (one + g * (one - s))), n);
    put(dup + i, d * (g * s), n);
  });
}

void rope(i64 m, i64 heads, i64 e, const float* x, const float* cosine, const float* sine,
          const std::int32_t* position, float sign, float* y) {
  const i64 half = e / 2;
  const v8 turn = splat(sign);
  for (i64 i = 0; i < m; ++i) {
    const float* c = cosine + position[i] * half;
    const float* s = sine + position[i] * half;
    for (i64 h = 0; h < heads; ++h, x += e, y += e) {
      each8(half, [&](i64 j, i64 n) {
        const v8 a = take(x + j, n), b = take(x + half + j, n);
        const v8 cj = take(c + j, n), sj = take(s + j, n) * turn;
        put(y + j, a * cj - b * sj, n);
        put(y + half + j, b * cj + a * sj, n);
      });
    }
  }
}

// ---- softmax ----

// The columns that row i sees end below this; stride and first_end are multiples of 8. What lies behind is 0 in the
// result and adds nothing to a sum, so leaving it out changes no bit.
ASSAY_INLINE i64 reach(i64 i, i64 first_end, i64 all_own) {
  return round_up(first_end + (all_own >= 0 ? all_own : i + 1), 8);
}
ASSAY_INLINE void blank(float* s, i64 first, i64 first_end, i64 own, i64 end, float with) {
  for (i64 j = first; j < first_end; ++j) s[j] = with;
  for (i64 j = first_end + own; j < end; ++j) s[j] = with;
}

void softmax(i64 m, i64 stride, float* s, float scale, i64 first, i64 first_end, i64 all_own, float* lse,
             i64 lse_stride) {
  const v8 times = splat(scale);
  for (i64 i = 0; i < m; ++i, s += stride) {
    const i64 end = reach(i, first_end, all_own);
    blank(s, first, first_end, all_own >= 0 ? all_own : i + 1, end, -INFINITY);
    v8 top = splat(-INFINITY);
    for (i64 j = 0; j < end; j += 8) {
      const v8 z = load(s + j) * times;
      store(s + j, z);
      top = max(z, top);
    }
    const float most = largest(top);
    v8 total = splat(0.f);
    for (i64 j = 0; j < end; j += 8) {
      const v8 p = exp(load(s + j) - splat(most));
      store(s + j, p);
      total = total + p;
    }
    const float whole = sum(total);
    const v8 share = splat(1.f / whole);
    for (i64 j = 0; j < end; j += 8) store(s + j, load(s + j) * share);
    for (i64 j = end; j < stride; j += 8) store(s + j, splat(0.f));
    if (lse) lse[i * lse_stride] = most + std::log(whole);
  }
}

void softmax_again(i64 m, i64 stride, float* s, float scale, i64 first, i64 first_end, const float* lse,
                   i64 lse_stride) {
  for (i64 i = 0; i < m; ++i, s += stride) {
    const i64 end = reach(i, first_end, -1);
    const v8 minus = splat(lse[i * lse_stride]);
    for (i64 j = 0; j < end; j += 8) store(s + j, exp(load(s + j) * splat(scale) - minus));
    blank(s, first, first_end, i + 1, end, 0.f);
    for (i64 j = end; j < stride; j += 8) store(s + j, splat(0.f));
  }
}

void softmax_backward(i64 m, i64 stride, const float* p, float* dp, float scale, i64 first_end) {
  for (i64 i = 0; i < m; ++i, p += stride, dp += stride) {
    const i64 end = reach(i, first_end, -1);
    v8 dots = splat(0.f);
    for (i64 j = 0; j < end; j += 8) dots = fma(load(p + j), load(dp + j), dots);
    const v8 delta = splat(sum(dots));
    for (i64 j = 0; j < end; j += 8) store(dp + j, splat(scale) * load(p + j) * (load(dp + j) - delta));
    for (i64 j = end; j < stride; j += 8) store(dp + j, splat(0.f));
  }
}

void distribution(i64 v, float* z, float inverse_temperature, float* most, float* log_sum, float* entropy) {
  v8 top = splat(-INFINITY);
  const v8 warm = splat(inverse_temperature);
  each8(v, [&](i64 i, i64 n) {
    const v8 x = take(z + i, n) * warm;
    put(z + i, x, n);
    top = max(n == 8 ? x : load_part(z + i, n, -INFINITY), top);
  });
  const float high = largest(top);
  v8 total = splat(0.f), weighted = splat(0.f);
  each8(v, [&](i64 i, i64 n) {
    const v8 x = take(z + i, n, -INFINITY) - splat(high);
    const v8 p = exp(x);
    put(z + i, p, n);
    total = total + p;
    if (entropy) weighted = fma(p, p > splat(0.f) ? x : splat(0.f), weighted);
  });
  const float whole = sum(total);
  const v8 share = splat(1.f / whole);
  each8(v, [&](i64 i, i64 n) { put(z + i, take(z + i, n) * share, n); });
  *most = high;
  *log_sum = std::log(whole);
  if (entropy) *entropy = *log_sum - sum(weighted) / whole;
}

}  // namespace

const Table table = {
    ASSAY_KERNEL_NAME,        gemm_packed, gemm,          rms_norm,         rms_norm_backward, swiglu,
    swiglu_backward, rope,     softmax,       softmax_again,    softmax_backward,  distribution,
};

}  // namespace assay::train::kernels::ASSAY_KERNEL_SPACE
