// fp32 matrix products, of the trainer and of quant/product alike. No LibTorch, no OpenMP: whoever calls divides the work.
//
// Each element of a result is a sum over k in ascending order, in pieces of `chunk` that are added one after the other; it
// depends neither on how many rows there are nor on who computes the others. So a token's value is the same bits whether it
// is computed while decoding, with 5 rows, or in training, with 5000.
//
// Three builds of one source: AVX-512, AVX2 + FMA, and portable. The first two give the same bits; portable rounds each
// product before it is added.
#pragma once

#include <cstdint>
#include <vector>

namespace assay::quant::gemm {

using i64 = std::int64_t;

inline constexpr i64 panel = 16;   // columns of B that one packed panel holds
inline constexpr i64 chunk = 256;  // of k: a panel's piece is 16 KB and stays in the first-level cache

inline constexpr i64 round_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

// B [K, N] as panels [ceil(N / panel)][K][panel], zero-padded: read in memory order.
struct Packed {
  i64 k = 0, n = 0;
  std::vector<float> data;
  bool empty() const { return data.empty(); }
};
// Element (k, n) of the source is at b[k * k_stride + n * n_stride].
void pack(Packed& to, const float* b, i64 k, i64 n, i64 k_stride, i64 n_stride);
// The other way.
void unpack(const Packed& from, float* b, i64 k_stride, i64 n_stride);

// C[M, N] = (accumulate ? C : bias or 0) + alpha * A·B. A's element (m, k) is at a[m * a_row + k * a_col].
// bias may be null. C's rows are ldc apart. Only columns [n0, n1) of C are made; n0 is a multiple of panel, c and bias
// begin at column 0.
using PackedProduct = void(i64 m, const float* a, i64 a_row, i64 a_col, const Packed& b, i64 n0, i64 n1, float* c, i64 ldc,
                           float alpha, const float* bias, bool accumulate);
// The same with B row-major, rows ldb apart.
using StridedProduct = void(i64 m, i64 n, i64 k, const float* a, i64 a_row, i64 a_col, const float* b, i64 ldb, float* c,
                            i64 ldc, float alpha, bool accumulate);

namespace avx512 {  // undefined behaviour on a processor without AVX-512 F, VL, DQ and BW
extern PackedProduct packed;
extern StridedProduct strided;
}  // namespace avx512
namespace avx2 {    // on one without AVX2 and FMA
extern PackedProduct packed;
extern StridedProduct strided;
}  // namespace avx2
namespace portable {
extern PackedProduct packed;
extern StridedProduct strided;
}  // namespace portable

enum class Path : std::uint8_t { portable, avx2, avx512 };
bool available(Path path);   // on this processor
PackedProduct* packed_product(Path path);
Path best_path();

}  // namespace assay::quant::gemm
