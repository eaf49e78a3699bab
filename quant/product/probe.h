// Whether a product adds in fp32, seen from sums that are known.
#pragma once

#include <cstdint>
#include <functional>

namespace assay::quant::product {

// multiply(a [m, k], b [k, n], m, k, n, y [m, n]), row-major. All elements are bf16 numbers; every partial sum, in any
// order, is an fp32 number, so anything but the exact result means a narrower sum. Returns the largest relative error.
using Multiply = std::function<void(const float* a, const float* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y)>;
double known_sums(const Multiply& multiply);

// The same for FP4 operands, multiply(a [m, k], b [n, k], m, k, n, y [m, n]), as fp4_layout.h has them: a product of 8 and
// one of 2^-20, whose sum is an fp32 number by its last bit, a block or more apart.
using MultiplyFp4 = std::function<void(const void* a, const void* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y)>;
double known_fp4_sum(const MultiplyFp4& multiply);

}  // namespace assay::quant::product
