// Products of numbers that bfloat16 holds, summed in fp32: what W4A4 layers multiply, an E2M1 code times its block scale. On bf16
// units where the processor has them, by fp32 arithmetic elsewhere; the bits are the same.
//
//   C[m, n] = factor[m] * sum over k of A[m, k] B[k, n]  (+ bias[n])
// Each product is exact in fp32. The sum is fp32's, k ascending, in pieces of pair_piece(K) that are added one after the other;
// factor and bias come last, in one rounding. A row does not depend on how many there are.
//
// Two of k share a word, the even one in its upper half: AVX512_BF16's VDPBF16PS adds the product of the upper halves first and
// that of the lower ones then, each rounded to nearest (Intel's manual says so; measured on an EPYC of 2022: 3,200,000 of
// 3,200,000 sums). It takes subnormal numbers for zero, which code_row() keeps away from it.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/gemm/gemm.h"

namespace assay::quant::gemm {

inline constexpr i64 words(i64 k) { return (k + 1) / 2; }

// In words. At most 320, and pieces of one length: a panel's piece is 20 KB and stays in the first-level cache.
inline constexpr i64 pair_piece(i64 k) {
  const i64 all = words(k), pieces = (all + 319) / 320;
  return pieces == 0 ? 0 : (all + pieces - 1) / pieces;
}

// B [K, N] as panels [ceil(N / panel)][words(K)][panel], zero-padded: 2 bytes an element.
struct PackedPairs {
  i64 k = 0, n = 0;
  std::vector<std::uint32_t> data;
};
// Of rows [N][words(K)], as code_row() makes them.
void pack(PackedPairs& to, const std::uint32_t* rows, i64 k, i64 n);

// A's rows are lda words apart, factors `step` apart (0: one for all rows). bias may be null. Columns as in PackedProduct.
using PairsProduct = void(i64 m, const std::uint32_t* a, i64 lda, const PackedPairs& b, i64 n0, i64 n1, float* c, i64 ldc,
                          const float* factor, i64 step, const float* bias);
// Words of x[k] / factor, each rounded to bfloat16. True where that loses nothing but the roundings by which x was made of code,
// block scale and factor: all of |x / factor - element| <= 2^-19 |x / factor|, elements 0, NaN or 2^-50 to 2^50 in size. Then no
// product, and no sum but 0, is subnormal or infinite.
using CodeRow = bool(i64 k, const float* x, float factor, std::uint32_t* words);

namespace bf16 {  // undefined behaviour on a processor without has_bf16_units()
extern PairsProduct pairs;
}
namespace avx512 {
extern PairsProduct pairs;
extern CodeRow code_row;
}
namespace avx2 {
extern PairsProduct pairs;
extern CodeRow code_row;
}
namespace portable {
extern PairsProduct pairs;
extern CodeRow code_row;
}

// AVX512_BF16 and the AVX-512 of gemm.h.
bool has_bf16_units();

}  // namespace assay::quant::gemm
