// The arithmetic of one block, branch-free, as small inline functions: what every fast path is made of.
//
// Each mode turns a block's absolute maximum into two numbers, and every element goes the same way:
//   q = round_e2m1(x * encode),  dq = q * decode.
// The formulas are docs/quantization.md's, in its bracketing. Non-finite input is the caller's business (it looks at
// the bits of the maximum); nothing here may be contracted to an FMA. Plain functions of floats and their bits, so
// that device code can share them.
#pragma once

#include <cfloat>
#include <cstdint>

#define ASSAY_QUANT_INLINE inline __attribute__((always_inline))

namespace assay::quant::block {

// Absolute values compare like their bits, as integers; everything from here on is Inf or NaN.
constexpr std::int32_t infinity_bits = 0x7f800000;
constexpr std::int32_t exponent_mask = 0x7f800000;
constexpr std::int32_t abs_mask = 0x7fffffff;

ASSAY_QUANT_INLINE std::int32_t bits_of(float x) { return __builtin_bit_cast(std::int32_t, x); }
ASSAY_QUANT_INLINE float float_of(std::int32_t bits) { return __builtin_bit_cast(float, bits); }
ASSAY_QUANT_INLINE std::int32_t abs_bits(float x) { return bits_of(x) & abs_mask; }
ASSAY_QUANT_INLINE std::int32_t larger(std::int32_t a, std::int32_t b) { return a > b ? a : b; }
ASSAY_QUANT_INLINE std::int32_t smaller(std::int32_t a, std::int32_t b) { return a < b ? a : b; }
// a where a < b, else b: what one minps does.
ASSAY_QUANT_INLINE float lesser(float a, float b) { return a < b ? a : b; }

// Rounds |v| = float_of(a) to a grid with M mantissa bits whose smallest normal number is 2^e_min, ties to even: adding
// C = 2^(exponent + 23 - M) leaves exactly the bits of the grid in the sum.
template <int M, int e_min>
ASSAY_QUANT_INLINE float round_to_grid(std::int32_t a) {
  const std::int32_t exponent = larger(a & exponent_mask, (e_min + 127) << 23);
  const float c = float_of(exponent + ((23 - M) << 23));
  return (float_of(a) + c) - c;
}

// Nearest of 0 .5 1 1.5 2 3 4 6, ties to even, saturating (Inf and NaN too), with y's sign, -0 included.
ASSAY_QUANT_INLINE float round_e2m1(float y) {
  const std::int32_t bits = bits_of(y);
  const float r = round_to_grid<1, 0>(smaller(bits & abs_mask, 0x40c00000 /* 6.0f */));
  return float_of(bits_of(r) | (bits & ~abs_mask));
}

// Nearest E4M3 number of v >= 0, ties to even, saturating at 448.
ASSAY_QUANT_INLINE float round_e4m3(float v) {
  return round_to_grid<3, -6>(smaller(bits_of(v), 0x43e00000 /* 448.0f */));
}

// encode and decode as above; `stored` is the block scale's own value, what a packed tensor keeps (E4M3 or E8M0).
struct Scale {
  float encode, decode, stored;
};

constexpr float one_sixth = 1.0f / 6.0f;
constexpr float one_2688th = 1.0f / 2688.0f;
// The largest float whose product with 6 is finite. Only met when A is within rounding of FLT_MAX.
constexpr float max_decode = 0x1.555554p+125f;

// NVFP4 `te`: E4M3 block scale under an fp32 scale that follows from A, the maximum of the tensor (or row).
struct Te {
  float a, encode_sixth, inverse_encode;

  ASSAY_QUANT_INLINE explicit Te(float tensor_max) : a(tensor_max) {
    float s_encode = lesser(2688.0f / a, FLT_MAX);
    if (a == 0 || s_encode == 0) s_encode = 1;
    encode_sixth = s_encode * one_sixth;
    inverse_encode = 1.0f / s_encode;
  }
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    const float s = round_e4m3(am * encode_sixth);
    const float encode = lesser(1.0f / (s * inverse_encode), FLT_MAX);
    // s * A leaves fp32 from A = 7.6e35 on; only there the other bracketing is taken, so that no Inf comes up.
    const float product = s * a;
    const float decode = product <= FLT_MAX ? product * one_2688th : s * (a * one_2688th);
    return {encode, lesser(decode, max_decode), s};
  }
};

// NVFP4 without the fp32 scale; the block scale is clamped to E4M3's normal numbers.
struct OneLevel {
  ASSAY_QUANT_INLINE explicit OneLevel(float) {}
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    float v = am / 6.0f;
    v = v > 0x1p-6f ? v : 0x1p-6f;
    const float s = round_e4m3(v);
    return {1.0f / s, s, s};
  }
};

// MXFP4 `floor`: E8M0 byte = exponent field of am, less 2, not below 0. Both factors are powers of two, so exact.
struct Floor {
  ASSAY_QUANT_INLINE explicit Floor(float) {}
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    const std::int32_t byte = larger((bits_of(am) >> 23) - 2, 0);
    // 2^-127, byte 0, is the subnormal 0x00400000.
    const float power = float_of(larger(byte << 23, 0x00400000));
    return {float_of((254 - byte) << 23), power, power};
  }
};

}  // namespace assay::quant::block
