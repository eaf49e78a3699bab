// The arithmetic of one block, branch-free, as small inline functions: what every fast path is made of.
//
// Each mode is a rule: built from the maximum A of the tensor (or row), it turns a block's maximum am into a Scale, and
// every element goes the same way:
//   q = round_e2m1(scaled<Rule::divides>(x, encode)),  dq = q * decode.
// A rule with two candidates (te46) has besides a second Scale and an error to choose by: choose() below.
// The formulas are docs/quantization.md's, in its bracketing. am and A are finite (non-finite input is the caller's
// business, who looks at the bits of the maximum); nothing here may be contracted to an FMA. Plain functions of floats
// and their bits, so that device code can share them.
#pragma once

#include <cfloat>
#include <cstdint>

#include "quant/formats.h"

#ifdef __CUDACC__
#define ASSAY_QUANT_INLINE __host__ __device__ __forceinline__
#else
#define ASSAY_QUANT_INLINE inline __attribute__((always_inline))
#endif

// On a GPU registers have no addresses: an array lives in them only where every index is known.
#ifdef __CUDA_ARCH__
#define ASSAY_UNROLL _Pragma("unroll")
#else
#define ASSAY_UNROLL
#endif

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

// Nearest bf16 number, ties to even, of a finite float; beyond the largest it is Inf.
ASSAY_QUANT_INLINE float round_bf16(float x) {
  const std::int32_t bits = bits_of(x);
  return float_of(static_cast<std::int32_t>(
      (static_cast<std::uint32_t>(bits) + 0x7fffu + static_cast<std::uint32_t>((bits >> 16) & 1)) & 0xffff0000u));
}

// ---- codes and bytes of packed tensors ----
// Code of a number of the E2M1 grid: from 1 on, exponent and first mantissa bit, 2 for 1.0; below are 0, and 1 for 0.5.
ASSAY_QUANT_INLINE std::int32_t code_of(float q) {
  const std::int32_t bits = bits_of(q), a = bits & abs_mask;
  return larger((a >> 22) - 252, a != 0) | ((bits >> 28) & 8);
}
ASSAY_QUANT_INLINE float value_of(std::int32_t code) {
  const std::int32_t m = code & 7;
  const std::int32_t a = m >= 2 ? (m + 252) << 22 : -m & 0x3f000000 /* 0.5f */;
  return float_of(a | ((code & 8) << 28));
}

// Byte of a block scale: a number of the E4M3 grid >= 0, or a power of two from 2^-127 on.
ASSAY_QUANT_INLINE std::int32_t byte_of(Format format, float stored) {
  const std::int32_t bits = bits_of(stored);
  if (format == Format::mxfp4) return bits >> 23;
  return stored < 0x1p-6f ? static_cast<std::int32_t>(stored * 512.0f) : (bits >> 20) - (120 << 3);
}
// That of a block which dequantizes to NaN.
ASSAY_QUANT_INLINE std::uint8_t nan_byte(Format format) { return format == Format::nvfp4 ? 0x7f : 0xff; }
// The other way; NaN for the bytes that mean it.
ASSAY_QUANT_INLINE float stored_of(Format format, std::int32_t byte) {
  const float nan = float_of(0x7fc00000);
  if (format == Format::mxfp4) return byte == 255 ? nan : float_of(larger(byte << 23, 0x00400000));
  const std::int32_t magnitude = byte & 0x7f;
  const float small = static_cast<float>(magnitude) * 0x1p-9f;
  const float a = magnitude == 0x7f ? nan : magnitude < 8 ? small : float_of((magnitude + (120 << 3)) << 20);
  return byte & 0x80 ? -a : a;
}

// ---- the Hadamard transform of 16 elements (hadamard.h) ----
// 0, or the sign bit of element j, to be flipped.
ASSAY_QUANT_INLINE std::int32_t hadamard_flip(std::uint16_t signs, int j) { return (signs >> j) & 1 ? ~abs_mask : 0; }
// x becomes H D x / 4, or with Inverse D H x / 4; flip[j] is hadamard_flip(signs, j).
template <bool Inverse>
ASSAY_QUANT_INLINE void hadamard(float (&x)[16], const std::int32_t (&flip)[16]) {
  if (!Inverse) {
    ASSAY_UNROLL
    for (int i = 0; i < 16; ++i) x[i] = float_of(bits_of(x[i]) ^ flip[i]);
  }
  ASSAY_UNROLL
  for (int half = 8; half > 0; half /= 2) {
    float y[16];
    ASSAY_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float a = x[i & ~half], b = x[i | half];
      y[i] = i & half ? a - b : a + b;
    }
    ASSAY_UNROLL
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
  ASSAY_UNROLL
  for (int i = 0; i < 16; ++i) x[i] = Inverse ? float_of(bits_of(x[i] * 0.25f) ^ flip[i]) : x[i] * 0.25f;
}

// ---- stochastic rounding ----
// Random bits of element `index` of a matrix under a seed: SplitMix64's output function on a counter, so that it does
// not matter who computes an element, or when. `key` is random_key(seed), which keeps nearby seeds apart.
ASSAY_QUANT_INLINE std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
ASSAY_QUANT_INLINE std::uint64_t random_key(std::uint64_t seed) { return mix64(seed + 0x9e3779b97f4a7c15u); }
// 22 bits, 0 .. 2^22 - 1.
ASSAY_QUANT_INLINE std::int32_t random_bits(std::uint64_t key, std::uint64_t index) {
  return static_cast<std::int32_t>(mix64(key + (index + 1) * 0x9e3779b97f4a7c15u) >> 42);
}

// One of the two E2M1 neighbours of y, the upper with probability (y - lower) / (upper - lower), to 2^-22: `random` is
// added below the last mantissa bit that E2M1 keeps, and the rest cut off. Numbers of the grid stay; saturates, keeps
// the sign.
ASSAY_QUANT_INLINE float round_e2m1_stochastic(float y, std::int32_t random) {
  const std::int32_t bits = bits_of(y);
  const std::int32_t a = smaller(bits & abs_mask, 0x40c00000 /* 6.0f */);
  constexpr std::int32_t kept = ~0x3fffff;
  // Below 1 the grid has steps of 1/2, as it has in [1, 2): round 1 + y there.
  const float below = float_of((bits_of(float_of(a) + 1.0f) + random) & kept) - 1.0f;
  const float above = float_of((a + random) & kept);
  const float r = a < 0x3f800000 /* 1.0f */ ? below : above;
  return float_of(bits_of(r) | (bits & ~abs_mask));
}

// ---- scales ----
// encode and decode as above; `stored` is the block scale's own value, what a packed tensor keeps (E4M3 or E8M0).
// Where Rule::divides, elements are divided by `encode`, not multiplied.
struct Scale {
  float encode, decode, stored;
};

constexpr float one_sixth = 1.0f / 6.0f;
// The largest float whose product with 6 is finite. Only met when A is within rounding of FLT_MAX.
constexpr float max_decode = 0x1.555554p+125f;

template <bool divides>
ASSAY_QUANT_INLINE float scaled(float x, float encode) {
  // compressed-tensors takes the sign by x < 0, so its zeros are positive: -0 + 0 is +0, all else stays.
  if constexpr (divides) return x / encode + 0.0f;
  return x * encode;
}

// What all rules have besides operator():
//   divides             whether elements are divided by Scale::encode
//   candidates          1, or 2: then second(am) and error(q, stored, x) too
//   exact_factor        whether decode == stored * tensor_factor() bit for bit; otherwise the reference brackets the
//                       product differently and the two may be one unit in the last place apart (and more where they are
//                       subnormal)
//   of(stored)          the Scale of a block scale: operator() is this, of the block scale it finds
//   decode_of(stored)   Scale::decode of a block scale that was stored
//   tensor_factor()     the number above the block scales: what a product of codes x stored scales is multiplied by
//   divisor()           the same the other way round, where the reference has it: compressed-tensors' global scale
template <bool Divides, int Candidates, bool ExactFactor>
struct Traits {
  static constexpr bool divides = Divides;
  static constexpr int candidates = Candidates;
  static constexpr bool exact_factor = ExactFactor;
};

// TransformerEngine's fp32 scale over E4M3 block scales whose largest is E: S = 6E / A.
template <int E>
struct TwoLevel {
  static constexpr float top = 6.0f * E;
  static constexpr float inverse_top = 1.0f / top;
  float a, s_encode, inverse_encode;

  ASSAY_QUANT_INLINE explicit TwoLevel(float tensor_max) : a(tensor_max) {
    s_encode = lesser(top / a, FLT_MAX);
    if (a == 0 || s_encode == 0) s_encode = 1;
    inverse_encode = 1.0f / s_encode;
  }
  ASSAY_QUANT_INLINE Scale of(float s) const {
    const float encode = lesser(1.0f / (s * inverse_encode), FLT_MAX);
    // s * A leaves fp32 from A = 7.6e35 on; only there the other bracketing is taken, so that no Inf comes up.
    const float product = s * a;
    const float decode = product <= FLT_MAX ? product * inverse_top : s * (a * inverse_top);
    // Above E only Four-over-Six has scales, for blocks whose largest code is 4.
    return {encode, lesser(decode, s <= E ? max_decode : FLT_MAX / 4), s};
  }
  ASSAY_QUANT_INLINE float decode_of(float stored) const { return of(stored).decode; }
  ASSAY_QUANT_INLINE float tensor_factor() const { return a * inverse_top; }
  ASSAY_QUANT_INLINE float divisor() const { return s_encode; }
};

// NVFP4 `te`.
struct Te : Traits<false, 1, false>, TwoLevel<448> {
  float encode_sixth;
  ASSAY_QUANT_INLINE explicit Te(float tensor_max) : TwoLevel(tensor_max) { encode_sixth = s_encode * one_sixth; }
  ASSAY_QUANT_INLINE Scale operator()(float am) const { return of(round_e4m3(am * encode_sixth)); }
};

// NVFP4 `te46` (squared error) and `te46_mae` (absolute): the block's maximum goes to 6, or, with a scale 1.5 times as
// large, to 4, whichever has the smaller error. E = 256 leaves room for the larger scale.
template <bool Squared>
struct FourOverSix : Traits<false, 2, false>, TwoLevel<256> {
  ASSAY_QUANT_INLINE explicit FourOverSix(float tensor_max) : TwoLevel(tensor_max) {}
  ASSAY_QUANT_INLINE Scale operator()(float am) const { return of(round_e4m3((am / 6.0f) * s_encode)); }
  ASSAY_QUANT_INLINE Scale second(float am) const { return of(round_e4m3(((am / 6.0f) * s_encode) * 1.5f)); }
  // One element's share; a block's error is their sum, one after the other from 0.
  ASSAY_QUANT_INLINE float error(float q, float stored, float x) const {
    const float difference = ((q * stored) * a) / top - x;
    return Squared ? difference * difference : float_of(abs_bits(difference));
  }
};

// NVFP4 `torchao`, two levels; the block scale is clamped to E4M3's normal numbers.
struct TorchAo : Traits<false, 1, true> {
  float p, inverse_p;

  ASSAY_QUANT_INLINE explicit TorchAo(float tensor_max) : p(tensor_max / 2688.0f) {
    if (p == 0) p = 1;  // torchao gives NaN, or zeros, when nothing is left of A
    inverse_p = lesser(1.0f / p, FLT_MAX);
  }
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    float v = (am / 6.0f) / p;
    v = v > 0x1p-6f ? v : 0x1p-6f;
    return of(round_e4m3(v));
  }
  ASSAY_QUANT_INLINE Scale of(float s) const { return {lesser(inverse_p / s, FLT_MAX), decode_of(s), s}; }
  ASSAY_QUANT_INLINE float decode_of(float stored) const { return lesser(p * stored, max_decode); }
  ASSAY_QUANT_INLINE float divisor() const { return inverse_p; }
  ASSAY_QUANT_INLINE float tensor_factor() const { return p; }
};

// NVFP4 without the fp32 scale, as torchao computes it.
struct OneLevel : Traits<false, 1, true> {
  ASSAY_QUANT_INLINE explicit OneLevel(float) {}
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    float v = am / 6.0f;
    v = v > 0x1p-6f ? v : 0x1p-6f;
    return of(round_e4m3(v));
  }
  ASSAY_QUANT_INLINE Scale of(float s) const { return {1.0f / s, s, s}; }
  ASSAY_QUANT_INLINE float decode_of(float stored) const { return stored; }
  ASSAY_QUANT_INLINE float divisor() const { return 1; }
  ASSAY_QUANT_INLINE float tensor_factor() const { return 1; }
};

// NVFP4 `ct`, and `ct_bf16`: the same with 1 / A, g and am / 6 rounded to bf16, as when the maxima were kept in bf16.
// (g is 2688 times the reciprocal, not 2688 / A: so PyTorch divides a number by a tensor.)
template <bool Bf16>
struct Ct : Traits<true, 1, false> {
  float g;

  ASSAY_QUANT_INLINE explicit Ct(float tensor_max) {
    g = 1.0f / (tensor_max > FLT_MIN ? tensor_max : FLT_MIN);
    if constexpr (Bf16) g = round_bf16(g);
    g = g * 2688.0f;
    if constexpr (Bf16) g = round_bf16(g);
    if (g > FLT_MAX) g = 1;
  }
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    float sixth = am / 6.0f;
    if constexpr (Bf16) sixth = round_bf16(sixth);
    float s = round_e4m3(g * sixth);
    return of(s == 0 ? 0.125f : s);
  }
  ASSAY_QUANT_INLINE Scale of(float s) const { return {s / g, decode_of(s), s}; }
  ASSAY_QUANT_INLINE float decode_of(float stored) const { return lesser(stored / g, max_decode); }
  ASSAY_QUANT_INLINE float divisor() const { return g; }
  ASSAY_QUANT_INLINE float tensor_factor() const { return 1.0f / g; }
};

// MXFP4: the block scale is 2^(byte - 127); both factors are powers of two, so exact. Byte is called with the bits of
// am and gives at most 253. Only `even`, `rceil` and `ceil` can dequantize to 2^128, from am = 1.75 2^127 on, which is
// Inf.
template <class Byte>
struct PowerOfTwo : Traits<false, 1, true> {
  ASSAY_QUANT_INLINE explicit PowerOfTwo(float) {}
  ASSAY_QUANT_INLINE Scale operator()(float am) const {
    const std::int32_t byte = larger(Byte::of(bits_of(am)), 0);
    // 2^-127, byte 0, is the subnormal 0x00400000.
    const float power = float_of(larger(byte << 23, 0x00400000));
    return {float_of((254 - byte) << 23), power, power};
  }
  ASSAY_QUANT_INLINE float decode_of(float stored) const { return stored; }
  ASSAY_QUANT_INLINE float divisor() const { return 1; }
  ASSAY_QUANT_INLINE float tensor_factor() const { return 1; }
};

// am lands in [4, 8): the power of two not above am, divided by 4.
struct FloorByte {
  static ASSAY_QUANT_INLINE std::int32_t of(std::int32_t bits) { return (bits >> 23) - 2; }
};
// In [3.5, 7): am is first rounded half up to E2M1's one mantissa bit.
struct EvenByte {
  static ASSAY_QUANT_INLINE std::int32_t of(std::int32_t bits) { return ((bits + 0x200000) >> 23) - 2; }
};
// In (3, 6]: the power of two not below am / 6. Quotients up to 2^-127 have byte 0.
struct RceilByte {
  static ASSAY_QUANT_INLINE std::int32_t of(std::int32_t bits) {
    const std::int32_t v = bits_of(float_of(bits) * one_sixth);
    return v > 0x00400000 ? (v + 0x7fffff) >> 23 : 0;
  }
};
// In (2, 4]: the power of two not below am, divided by 4.
struct CeilByte {
  static ASSAY_QUANT_INLINE std::int32_t of(std::int32_t bits) { return ((bits + 0x7fffff) >> 23) - 2; }
};
using Floor = PowerOfTwo<FloorByte>;
using Even = PowerOfTwo<EvenByte>;
using Rceil = PowerOfTwo<RceilByte>;
using Ceil = PowerOfTwo<CeilByte>;

// Sum of the errors of n elements `stride` apart under a scale, one after the other: what two candidates are compared
// by. In a 16x16 tile this is one row, and the rows' sums are added as a tree: tile_sum().
template <class Rule>
ASSAY_QUANT_INLINE float error_sum(const Rule& rule, const Scale& scale, const float* x, int n, std::int64_t stride) {
  float sum = 0;
  for (int i = 0; i < n; ++i) {
    const float value = x[i * stride];
    sum += rule.error(round_e2m1(scaled<Rule::divides>(value, scale.encode)), scale.stored, value);
  }
  return sum;
}

// TransformerEngine's order over the 16 rows of a tile (a warp's shuffle tree): halves are added until one is left.
ASSAY_QUANT_INLINE float tile_sum(float (&rows)[16]) {
  for (int half = 8; half > 0; half /= 2) {
    for (int r = 0; r < half; ++r) rows[r] += rows[r + half];
  }
  return rows[0];
}

// The scale of a block whose n elements (missing ones are zeros, they add no error) lie `stride` apart.
template <class Rule>
ASSAY_QUANT_INLINE Scale choose(const Rule& rule, float am, const float* x, int n, std::int64_t stride) {
  const Scale first = rule(am);
  if constexpr (Rule::candidates == 2) {
    const Scale second = rule.second(am);
    // Strictly: a tie takes the first.
    if (error_sum(rule, second, x, n, stride) < error_sum(rule, first, x, n, stride)) return second;
  }
  return first;
}

// f(Tag<Rule>{}) with the rule of a mode: the one switch over modes, in two halves.
template <class Rule>
struct Tag {
  using type = Rule;
};
template <class F>
ASSAY_QUANT_INLINE decltype(auto) with_nvfp4_rule(Mode mode, F&& f) {
  switch (mode) {
    case Mode::te46: return f(Tag<FourOverSix<true>>{});
    case Mode::te46_mae: return f(Tag<FourOverSix<false>>{});
    case Mode::torchao: return f(Tag<TorchAo>{});
    case Mode::torchao_one_level: return f(Tag<OneLevel>{});
    case Mode::ct: return f(Tag<Ct<false>>{});
    case Mode::ct_bf16: return f(Tag<Ct<true>>{});
    default: return f(Tag<Te>{});
  }
}
template <class F>
ASSAY_QUANT_INLINE decltype(auto) with_mxfp4_rule(Mode mode, F&& f) {
  switch (mode) {
    case Mode::even: return f(Tag<Even>{});
    case Mode::rceil: return f(Tag<Rceil>{});
    case Mode::ceil: return f(Tag<Ceil>{});
    default: return f(Tag<Floor>{});
  }
}
template <class F>
ASSAY_QUANT_INLINE decltype(auto) with_rule(Mode mode, F&& f) {
  if (is_mxfp4(mode)) return with_mxfp4_rule(mode, f);
  return with_nvfp4_rule(mode, f);
}

}  // namespace assay::quant::block
