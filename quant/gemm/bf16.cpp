// pairs.h on AVX512_BF16's units: compiled with -mavx512bf16 (CMakeLists.txt).
#include <cstdint>

#include "quant/gemm/pairs.h"
#include "quant/gemm/vectors.h"

namespace assay::quant::gemm::bf16 {
#if defined(__AVX512BF16__)
namespace {

ASSAY_INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Where a tile's sums go: added to those before, and where they are the last multiplied and put in place.
struct Place {
  float* c;
  i64 ldc;
  const float* factor;  // null: more pieces follow
  i64 step;
  const float* bias;
  bool add;
};

// MR rows of A times P panels of B, of which the last may be narrower. With one panel, `next` is the panel read after it, as it is
// with several: it is asked for meanwhile, as in impl.h.
template <int MR, int P>
ASSAY_INLINE void tile(i64 length, const std::uint32_t* a, i64 lda, const std::uint32_t* b, i64 next, const Place& to, i64 columns) {
  __m512 acc[MR][P];
#pragma GCC unroll 14
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[i][p] = _mm512_setzero_ps();
  for (i64 k = 0; k < length; ++k) {
    __m512bh bk[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) bk[p] = (__m512bh)_mm512_loadu_si512(b + k * panel + p * next);
    if constexpr (P == 1) __builtin_prefetch(b + k * panel + next, 0, 2);
#pragma GCC unroll 14
    for (int i = 0; i < MR; ++i) {
      const __m512bh ai = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * lda + k]));
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[i][p] = _mm512_dpbf16_ps(acc[i][p], ai, bk[p]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const i64 left = columns - p * panel;
      const auto mask = static_cast<__mmask16>(left >= panel ? 0xffff : (1 << left) - 1);
      float* c = to.c + i * to.ldc + p * panel;
      __m512 y = to.add ? acc[i][p] + _mm512_maskz_loadu_ps(mask, c) : acc[i][p];
      if (to.factor) {
        const __m512 bias = to.bias ? _mm512_maskz_loadu_ps(mask, to.bias + p * panel) : _mm512_setzero_ps();
        y = _mm512_fmadd_ps(_mm512_set1_ps(to.factor[i * to.step]), y, bias);
      }
      _mm512_mask_storeu_ps(c, mask, y);
    }
  }
}

// Enough sums at once that none waits for its last one.
__attribute__((noinline)) void rows(i64 m, i64 length, const std::uint32_t* a, i64 lda, const std::uint32_t* b, i64 next, Place to,
                                    i64 columns) {
  const auto go_on = [&](i64 done) {
    m -= done;
    a += done * lda;
    to.c += done * to.ldc;
    if (to.factor) to.factor += done * to.step;
  };
  for (; m >= 14; go_on(14)) tile<14, 1>(length, a, lda, b, next, to, columns);
  if (m >= 8) {
    tile<8, 1>(length, a, lda, b, next, to, columns);
    go_on(8);
  }
  switch (m) {
    case 7: tile<7, 1>(length, a, lda, b, next, to, columns); break;
    case 6: tile<6, 1>(length, a, lda, b, next, to, columns); break;
    case 5: tile<5, 1>(length, a, lda, b, next, to, columns); break;
    case 4: tile<4, 1>(length, a, lda, b, next, to, columns); break;
    case 3: tile<3, 1>(length, a, lda, b, next, to, columns); break;
    case 2: tile<2, 1>(length, a, lda, b, next, to, columns); break;
    case 1: tile<1, 1>(length, a, lda, b, next, to, columns); break;
    default: break;
  }
}

constexpr i64 row_block = 196;  // rows of A, 14 times 14, that stay in the second-level cache while all panels pass

}  // namespace

void pairs(i64 m, const std::uint32_t* a, i64 lda, const PackedPairs& b, i64 n0, i64 n1, float* c, i64 ldc, const float* factor,
           i64 step, const float* bias) {
  const i64 all = words(b.k), piece = pair_piece(b.k);
  for (i64 m0 = 0; m0 < m; m0 += row_block) {
    const i64 mb = least(row_block, m - m0);
    i64 k0 = 0;
    do {
      const i64 kb = least(piece, all - k0);
      const bool last = k0 + kb == all;
      const std::uint32_t* ak = a + m0 * lda + k0;
      const auto at = [&](i64 n) { return b.data.data() + n * all + k0 * panel; };
      const auto place = [&](i64 n) {
        return Place{c + m0 * ldc + n, ldc, last ? factor + m0 * step : nullptr, step, last && bias ? bias + n : nullptr, k0 > 0};
      };
      i64 n = n0;
      for (; mb == 1 && n + 8 * panel <= n1; n += 8 * panel) tile<1, 8>(kb, ak, lda, at(n), all * panel, place(n), 8 * panel);
      for (; mb <= 2 && n + 4 * panel <= n1; n += 4 * panel) {
        if (mb == 1) tile<1, 4>(kb, ak, lda, at(n), all * panel, place(n), 4 * panel);
        else tile<2, 4>(kb, ak, lda, at(n), all * panel, place(n), 4 * panel);
      }
      for (; mb == 3 && n + 2 * panel <= n1; n += 2 * panel) tile<3, 2>(kb, ak, lda, at(n), all * panel, place(n), 2 * panel);
      for (; mb == 4 && n + 2 * panel <= n1; n += 2 * panel) tile<4, 2>(kb, ak, lda, at(n), all * panel, place(n), 2 * panel);
      for (; n < n1; n += panel) {
        const std::uint32_t* const ahead = n + panel < n1 ? at(n + panel) : b.data.data() + n0 * all + (last ? 0 : k0 + kb) * panel;
        rows(mb, kb, ak, lda, at(n), ahead - at(n), place(n), least(panel, n1 - n));
      }
      k0 += kb;
    } while (k0 < all);
  }
}
#else
void pairs(i64, const std::uint32_t*, i64, const PackedPairs&, i64, i64, float*, i64, const float*, i64, const float*) { __builtin_trap(); }
#endif

}  // namespace assay::quant::gemm::bf16
