// pairs.h on fp32 arithmetic, behind impl.h in the same files. No product is rounded, so whether it is fused is all the same.
#include "quant/gemm/pairs.h"

namespace assay::quant::gemm::ASSAY_GEMM_SPACE {
namespace {

typedef std::uint32_t u8 __attribute__((vector_size(32)));
typedef std::uint32_t u8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef std::uint64_t u4 __attribute__((vector_size(32)));
typedef std::uint32_t half_u8 __attribute__((vector_size(16)));

// What is done with a tile's sums: added to those before, and where they are the last multiplied and put in place.
struct Ending {
  const float* factor;  // null: more pieces follow
  i64 step;
  const float* bias;
  bool add;
};

// MR rows of A, as floats lda apart, times NV * 8 columns.
template <int MR, int NV>
ASSAY_INLINE void pair_tile(i64 length, const float* a, i64 lda, const std::uint32_t* b, i64 next, float* c, i64 ldc, i64 columns,
                            const Ending& ending) {
  v8 acc[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = splat(0.f);
  for (i64 k = 0; k < length; ++k) {
    for (int odd = 0; odd < 2; ++odd) {
      v8 bk[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) {
        const u8 word = *reinterpret_cast<const u8u*>(b + k * panel + j / 2 * next + j % 2 * 8);
        bk[j] = (v8)(odd ? word << 16 : word & 0xffff0000u);
      }
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        const v8 ai = splat(a[i * lda + 2 * k + odd]);
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) acc[i][j] = fma(ai, bk[j], acc[i][j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      const i64 left = least(8, columns - 8 * j);
      if (left <= 0) continue;
      float* to = c + i * ldc + 8 * j;
      const auto get = [left](const float* from) { return left == 8 ? load(from) : load_part(from, left, 0); };
      v8 y = ending.add ? acc[i][j] + get(to) : acc[i][j];
      if (ending.factor)
        y = fma(splat(ending.factor[i * ending.step]), y, ending.bias ? get(ending.bias + 8 * j) : splat(0.f));
      if (left == 8)
        store(to, y);
      else
        store_part(to, y, left);
    }
  }
}

template <int NV>
ASSAY_INLINE void pair_rows(i64 m, i64 length, const float* a, i64 lda, const std::uint32_t* b, i64 next, float* c, i64 ldc,
                            i64 columns, Ending ending) {
  for (; m >= 6; m -= 6, a += 6 * lda, c += 6 * ldc, ending.factor += ending.factor ? 6 * ending.step : 0)
    pair_tile<6, NV>(length, a, lda, b, next, c, ldc, columns, ending);
  switch (m) {
    case 5: pair_tile<5, NV>(length, a, lda, b, next, c, ldc, columns, ending); break;
    case 4: pair_tile<4, NV>(length, a, lda, b, next, c, ldc, columns, ending); break;
    case 3: pair_tile<3, NV>(length, a, lda, b, next, c, ldc, columns, ending); break;
    case 2: pair_tile<2, NV>(length, a, lda, b, next, c, ldc, columns, ending); break;
    case 1: pair_tile<1, NV>(length, a, lda, b, next, c, ldc, columns, ending); break;
    default: break;
  }
}

// Rows of A that are spread out to floats at once: a piece of them stays in the second-level cache while all panels pass.
constexpr i64 spread_rows = 48;

}  // namespace

void pairs(i64 m, const std::uint32_t* a, i64 lda, const PackedPairs& b, i64 n0, i64 n1, float* c, i64 ldc, const float* factor,
           i64 step, const float* bias) {
  alignas(64) float spread[spread_rows * 640];
  const i64 all = words(b.k), piece = pair_piece(b.k);
  for (i64 m0 = 0; m0 < m; m0 += spread_rows) {
    const i64 mb = least(spread_rows, m - m0);
    i64 k0 = 0;
    do {
      const i64 kb = least(piece, all - k0);
      for (i64 i = 0; i < mb; ++i) {
        const std::uint32_t* from = a + (m0 + i) * lda + k0;
        for (i64 j = 0; j < kb; ++j) {
          const std::uint32_t halves[2] = {from[j] & 0xffff0000u, from[j] << 16};
          std::memcpy(spread + (i * kb + j) * 2, halves, sizeof halves);
        }
      }
      const bool last = k0 + kb == all;
      i64 n = n0;
      const auto columns = [&](i64 from) {
        return Ending{last ? factor + m0 * step : nullptr, step, last && bias ? bias + from : nullptr, k0 > 0};
      };
      const auto at = [&](i64 from) { return b.data.data() + from * all + k0 * panel; };
      // One or two rows: several panels at once, or each sum waits for its last one.
      for (; mb == 1 && n + 4 * panel <= n1; n += 4 * panel)
        pair_tile<1, 8>(kb, spread, 2 * kb, at(n), all * panel, c + m0 * ldc + n, ldc, 4 * panel, columns(n));
      for (; mb == 2 && n + 2 * panel <= n1; n += 2 * panel)
        pair_tile<2, 4>(kb, spread, 2 * kb, at(n), all * panel, c + m0 * ldc + n, ldc, 2 * panel, columns(n));
      for (; n < n1; n += panel)
        pair_rows<2>(mb, kb, spread, 2 * kb, at(n), all * panel, c + m0 * ldc + n, ldc, least(panel, n1 - n), columns(n));
      k0 += kb;
    } while (k0 < all);
  }
}

bool code_row(i64 k, const float* x, float factor, std::uint32_t* to) {
  const v8 inverse = splat(1.f / factor);
  i8 wrong = i8{};
  for (i64 j = 0; j < k; j += 8) {
    const i64 left = least(8, k - j);
    const v8 given = left == 8 ? load(x + j) : load_part(x + j, left, 0), v = given * inverse;
    const u8 bits = (u8)v;
    const u8 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    const i8 nan = given != given, zero = given == splat(0.f);
    const u8 element = nan ? u8{} + 0x7fc00000u : zero ? u8{} : rounded;
    const v8 e = (v8)element;
    const v8 size = (v8)((u8)e & 0x7fffffffu), away = (v8)((u8)(v - e) & 0x7fffffffu), whole = (v8)(bits & 0x7fffffffu);
    const i8 held = (size >= splat(0x1p-50f)) & (size <= splat(0x1p50f)) & (away <= whole * splat(0x1p-19f));
    wrong |= ~(held | nan | zero);
    // A word's two elements lie in one 64-bit lane, the even one below.
    const u4 both = (u4)element;
    const u4 joined = (both & 0xffff0000u) | (both >> 48);
    const half_u8 word = __builtin_convertvector(joined, half_u8);
    if (left == 8) {
      std::memcpy(to + j / 2, &word, sizeof word);
    } else {
      for (i64 i = 0; i < words(left); ++i) to[j / 2 + i] = word[i];
    }
  }
  std::int32_t any = 0;
  for (int i = 0; i < 8; ++i) any |= wrong[i];
  return any == 0;
}

}  // namespace assay::quant::gemm::ASSAY_GEMM_SPACE
