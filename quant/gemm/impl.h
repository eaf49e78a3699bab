// The one source of all builds (avx2.cpp, avx512.cpp, portable.cpp); the includer defines ASSAY_GEMM_SPACE, and
// ASSAY_GEMM_WIDE for vectors of 16.
// Nothing from the C++ library that could be emitted with AVX2 code and then shared with other files.
#include <cstdint>
#include <cstring>

#include "quant/gemm/gemm.h"
#include "quant/gemm/vectors.h"

namespace assay::quant::gemm::ASSAY_GEMM_SPACE {
namespace {

// Weights that are larger than the caches are read at the memory's pace, unless a panel is asked for while the one before it
// is multiplied: a processor's own prefetcher ends with the page.
ASSAY_INLINE void ask_for(const float* line) { __builtin_prefetch(line, 0, 2); }

// MR rows of A times NV * 8 columns of B, over k in [0, length). B's rows are ldb apart, and every 16 of its columns
// `next` from the 16 before. ahead: a packed panel that is read soon, or null; only the
// first rows ask for it.
template <int MR, int NV>
ASSAY_INLINE void tile(i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, i64 next, const float* ahead, float* c,
                       i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  v8 acc[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = splat(0.f);
  for (i64 k = 0; k < length; ++k) {
    v8 bk[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) bk[j] = load(b + k * ldb + j / 2 * next + j % 2 * 8);
    if (NV <= 2 && ahead) ask_for(ahead + k * panel);
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
        store(to, fma(scale, acc[i][j], from));
      } else if (left > 0) {
        const v8 from = accumulate ? load_part(to, left, 0) : bias ? load_part(bias + 8 * j, left, 0) : splat(0.f);
        store_part(to, fma(scale, acc[i][j], from), left);
      }
    }
  }
}

#ifdef ASSAY_GEMM_WIDE
typedef float v16 __attribute__((vector_size(64)));
typedef float v16u __attribute__((vector_size(64), aligned(4), may_alias));

ASSAY_INLINE v16 splat16(float x) { return v16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
ASSAY_INLINE v8 low(v16 x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7); }
ASSAY_INLINE v8 high(v16 x) { return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15); }
ASSAY_INLINE v16 fma16(v16 a, v16 b, v16 c) {
#ifdef __AVX512F__
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else  // the test's build, on a processor without
  return __builtin_shufflevector(fma(low(a), low(b), low(c)), fma(high(a), high(b), high(c)), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                 10, 11, 12, 13, 14, 15);
#endif
}

// tile<MR, 2>, each sum in the same order, so the same bits: a panel is one vector, and 14 rows of it hide the latency.
template <int MR>
ASSAY_INLINE void tile16(i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, const float* ahead, float* c,
                         i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  v16 acc[MR];
#pragma GCC unroll 14
  for (int i = 0; i < MR; ++i) acc[i] = v16{};
  for (i64 k = 0; k < length; ++k) {
    const v16 bk = *reinterpret_cast<const v16u*>(b + k * ldb);
    if (ahead) ask_for(ahead + k * panel);
#pragma GCC unroll 14
    for (int i = 0; i < MR; ++i) acc[i] = fma16(splat16(a[i * a_row + k * a_col]), bk, acc[i]);
  }
#pragma GCC unroll 14
  for (int i = 0; i < MR; ++i) {
    const v8 scale = splat(alpha);
    float* to = c + i * ldc;
    const float* from = accumulate ? to : bias;
    const auto start = [&](i64 at, i64 n) { return !from ? splat(0.f) : n == 8 ? load(from + at) : load_part(from + at, n, 0); };
    store(to, fma(scale, low(acc[i]), start(0, 8)));
    if (columns == 16)
      store(to + 8, fma(scale, high(acc[i]), start(8, 8)));
    else
      store_part(to + 8, fma(scale, high(acc[i]), start(8, columns - 8)), columns - 8);
  }
}

ASSAY_INLINE void panel_rows(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, const float* ahead,
                             float* c, i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  for (; m >= 14; m -= 14, a += 14 * a_row, c += 14 * ldc, ahead = nullptr)
    tile16<14>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate);
  if (m >= 8) {
    tile16<8>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate);
    m -= 8, a += 8 * a_row, c += 8 * ldc;
  }
  switch (m) {
    case 7: tile16<7>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 6: tile16<6>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 5: tile16<5>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 4: tile16<4>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 3: tile16<3>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 2: tile16<2>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 1: tile16<1>(length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    default: break;
  }
}
#endif

template <int NV>
ASSAY_INLINE void rows(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, const float* ahead, float* c,
                       i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  for (; m >= 6; m -= 6, a += 6 * a_row, c += 6 * ldc, ahead = nullptr)
    tile<6, NV>(length, a, a_row, a_col, b, ldb, panel, ahead, c, ldc, columns, alpha, bias, accumulate);
  switch (m) {
    case 5: tile<5, NV>(length, a, a_row, a_col, b, ldb, panel, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 4: tile<4, NV>(length, a, a_row, a_col, b, ldb, panel, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 3: tile<3, NV>(length, a, a_row, a_col, b, ldb, panel, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 2: tile<2, NV>(length, a, a_row, a_col, b, ldb, panel, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    case 1: tile<1, NV>(length, a, a_row, a_col, b, ldb, panel, ahead, c, ldc, columns, alpha, bias, accumulate); break;
    default: break;
  }
}

// Not inlined: two instances of the tiles, shared by both forms of the product.
__attribute__((noinline)) void rows16(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb,
                                      const float* ahead, float* c, i64 ldc, i64 columns, float alpha, const float* bias,
                                      bool accumulate) {
#ifdef ASSAY_GEMM_WIDE
  panel_rows(m, length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate);
#else
  rows<2>(m, length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate);
#endif
}
__attribute__((noinline)) void rows8(i64 m, i64 length, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb,
                                     const float* ahead, float* c, i64 ldc, i64 columns, float alpha, const float* bias, bool accumulate) {
  rows<1>(m, length, a, a_row, a_col, b, ldb, ahead, c, ldc, columns, alpha, bias, accumulate);
}

ASSAY_INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

template <int N>
struct Count {
  static constexpr int value = N;
};

constexpr i64 row_block = 96;  // rows of A that stay in the second-level cache while all panels pass

}  // namespace

void packed(i64 m, const float* a, i64 a_row, i64 a_col, const Packed& b, i64 first, i64 last, float* c, i64 ldc,
                 float alpha, const float* bias, bool accumulate) {
  if (b.k == 0) {
    for (i64 i = 0; i < m; ++i)
      for (i64 j = first; j < last; ++j)
        if (!accumulate) c[i * ldc + j] = bias ? bias[j] : 0.f;
    return;
  }
  for (i64 m0 = 0; m0 < m; m0 += row_block) {
    const i64 mb = least(row_block, m - m0);
    for (i64 k0 = 0; k0 < b.k; k0 += chunk) {
      const i64 kb = least(chunk, b.k - k0);
      const bool add = accumulate || k0 > 0;
      const float* ak = a + m0 * a_row + k0 * a_col;
      i64 n0 = first;
      // Up to three rows: several panels at once, or each sum waits for its last one.
      const auto at_once = [&](auto rows, auto panels) {
        for (; n0 + panels.value * panel <= last; n0 += panels.value * panel)
          tile<rows.value, 2 * panels.value>(kb, ak, a_row, a_col, b.data.data() + n0 * b.k + k0 * panel, panel, b.k * panel,
                                             nullptr, c + m0 * ldc + n0, ldc, panels.value * panel, alpha, bias ? bias + n0 : nullptr, add);
      };
      if (mb == 1) at_once(Count<1>{}, Count<4>{});
      if (mb == 2) at_once(Count<2>{}, Count<2>{});
      if (mb == 3) at_once(Count<3>{}, Count<2>{});
      for (; n0 < last; n0 += panel) {
        const float* const bk = b.data.data() + n0 * b.k + k0 * panel;
        const float* const ahead = n0 + panel < last ? bk + b.k * panel : b.data.data() + first * b.k + (k0 + kb < b.k ? k0 + kb : 0) * panel;
        const i64 columns = least(panel, last - n0);
        const float* from = bias ? bias + n0 : nullptr;
        float* to = c + m0 * ldc + n0;
        if (columns > 8)
          rows16(mb, kb, ak, a_row, a_col, bk, panel, ahead, to, ldc, columns, alpha, from, add);
        else
          rows8(mb, kb, ak, a_row, a_col, bk, panel, ahead, to, ldc, columns, alpha, from, add);
      }
    }
  }
}

void strided(i64 m, i64 n, i64 k, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c, i64 ldc,
          float alpha, bool accumulate) {
  if (k == 0) {
    if (!accumulate)
      for (i64 i = 0; i < m; ++i) std::memset(c + i * ldc, 0, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  alignas(64) float edge[chunk * panel];  // a panel that must not be read where it lies: its last columns
  for (i64 k0 = 0; k0 < k; k0 += chunk) {
    const i64 kb = least(chunk, k - k0);
    const bool add = accumulate || k0 > 0;
    const float* ak = a + k0 * a_col;
    i64 n0 = 0;
    // One or two rows, as attention has while decoding: several panels at once, or each sum waits for its last one.
    for (; m == 1 && n0 + 64 <= n; n0 += 64)
      tile<1, 8>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, panel, nullptr, c + n0, ldc, 64, alpha, nullptr, add);
    for (; m == 1 && n0 + 48 <= n; n0 += 48)
      tile<1, 6>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, panel, nullptr, c + n0, ldc, 48, alpha, nullptr, add);
    for (; m == 1 && n0 + 32 <= n; n0 += 32)
      tile<1, 4>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, panel, nullptr, c + n0, ldc, 32, alpha, nullptr, add);
    for (; m == 2 && n0 + 32 <= n; n0 += 32)
      tile<2, 4>(kb, ak, a_row, a_col, b + k0 * ldb + n0, ldb, panel, nullptr, c + n0, ldc, 32, alpha, nullptr, add);
    for (; n0 < n; n0 += panel) {
      const i64 columns = least(panel, n - n0);
      const float* bk = b + k0 * ldb + n0;
      i64 stride = ldb;
      if (columns % 8 != 0 || (m > 64 && ldb > panel)) {  // ragged, or apart and used often enough to be brought together
        for (i64 i = 0; i < kb; ++i) {
          for (i64 j = 0; j < columns; ++j) edge[i * panel + j] = bk[i * ldb + j];
          for (i64 j = columns; j < panel; ++j) edge[i * panel + j] = 0.f;
        }
        bk = edge;
        stride = panel;
      }
      if (columns > 8)
        rows16(m, kb, ak, a_row, a_col, bk, stride, nullptr, c + n0, ldc, columns, alpha, nullptr, add);
      else
        rows8(m, kb, ak, a_row, a_col, bk, stride, nullptr, c + n0, ldc, columns, alpha, nullptr, add);
    }
  }
}

}  // namespace assay::quant::gemm::ASSAY_GEMM_SPACE
