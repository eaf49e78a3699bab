// The random Hadamard transform of size 16, which spreads an outlier over its block before quantization.
//
// Every 16 elements along a row, x, become y = H D x / 4: D flips signs, H is Sylvester's matrix,
// H[i][j] = (-1)^popcount(i & j). The transform is orthogonal, so a product over K keeps its value when both operands are transformed along K with the
// same signs; the inverse is D H y / 4. fp32, butterflies of distance 8, 4, 2, 1, then the multiplication by 1/4: the
// result is exact up to the rounding of those sums. The scheme of NVIDIA's FP4 training recipe, which fixes its signs.
#pragma once

#include <cstdint>

namespace assay::quant {

// 16 signs from a seed: bit j set means that element j is negated.
std::uint16_t hadamard_signs(std::uint64_t seed);

// out = transform(in) of a row-major matrix [rows, cols]; cols is a multiple of 16 (asserted). in == out is allowed.
void hadamard16(const float* in, float* out, std::int64_t rows, std::int64_t cols, std::uint16_t signs);
void inverse_hadamard16(const float* in, float* out, std::int64_t rows, std::int64_t cols, std::uint16_t signs);

}  // namespace assay::quant
