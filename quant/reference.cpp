#include "quant/reference.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cfloat>
#include <cmath>
#include <limits>

namespace assay::quant {
namespace {

float to_e4m3(float x) { return decode_e4m3(encode_e4m3(x)); }
float to_bf16(float x) { return decode_bf16(encode_bf16(x)); }

// The factor an element is multiplied with before E2M1 rounding (in ct: divided by), the one after, and the block scale.
struct Factors {
  float encode, decode, stored;
};

// The block's largest code times decode must stay finite: only a block that holds FLT_MAX itself, or nearly, comes here.
float finite_with(float largest_code, float decode) {
  while (std::isinf(largest_code * decode)) decode = std::nextafter(decode, 0.0f);
  return decode;
}

// S, where `top` is 6 * 448, or 6 * 256 for Four-over-Six.
float te_encode_scale(float top, float a) {
  const float s_encode = std::min(top / a, FLT_MAX);
  return a == 0 || s_encode == 0 ? 1 : s_encode;
}

Factors te_factors(float top, float a, float s) {
  const float encode = std::min(1.0f / (s * (1.0f / te_encode_scale(top, a))), FLT_MAX);
  float decode = (s * a) * (1.0f / top);
  if (std::isinf(s * a)) decode = s * (a * (1.0f / top));
  // Scales above E are those of Four-over-Six that send the maximum to 4.
  return {encode, finite_with(s * 6.0f <= top ? 6 : 4, decode), s};
}

Factors te(float am, float a) {
  return te_factors(2688.0f, a, to_e4m3(am * (te_encode_scale(2688.0f, a) * (1.0f / 6.0f))));
}

Factors four_over_six(float am, float a, bool to_four) {
  float base = (am / 6.0f) * te_encode_scale(1536.0f, a);
  if (to_four) base = base * 1.5f;
  return te_factors(1536.0f, a, to_e4m3(std::min(base, 448.0f)));
}

float four_over_six_error(bool squared, float x, float a, const Factors& f) {
  const float q = decode_e2m1(encode_e2m1(x * f.encode));
  const float difference = ((q * f.stored) * a) / 1536.0f - x;
  return squared ? difference * difference : std::fabs(difference);
}

Factors torchao(float am, float a) {
  float p = a / 2688.0f;
  if (p == 0) p = 1;
  const float s = to_e4m3(std::clamp((am / 6.0f) / p, 0x1p-6f, 448.0f));
  const float inverse = std::min(1.0f / p, FLT_MAX);
  return {std::min(inverse / s, FLT_MAX), finite_with(6, p * s), s};
}

Factors torchao_one_level(float am) {
  const float s = to_e4m3(std::clamp(am / 6.0f, 0x1p-6f, 448.0f));
  return {1.0f / s, s, s};
}

Factors compressed_tensors(float am, float a, bool bf16) {
  const auto rounded = [&](float v) { return bf16 ? to_bf16(v) : v; };
  float g = rounded(rounded(1.0f / std::max(a, FLT_MIN)) * 2688.0f);
  const float sixth = rounded(am / 6.0f);
  if (std::isinf(g)) g = 1;
  float s = to_e4m3(g * sixth);
  if (s == 0) s = 0.125f;
  return {s / g, finite_with(6, s / g), s};
}

// The scale 2^exponent, not below 2^-127.
Factors power_of_two(int exponent) {
  exponent = std::clamp(exponent, -127, 127);
  const float power = decode_e8m0(static_cast<std::uint8_t>(exponent + 127));
  return {std::ldexp(1.0f, -exponent), power, power};
}

// floor(log2 v), with -127 for what is below 2^-126: E8M0's own view of a number.
int exponent_of(float v) { return static_cast<int>(std::bit_cast<std::uint32_t>(v) >> 23) - 127; }
bool between_powers(float v) { return (std::bit_cast<std::uint32_t>(v) & 0x7fffff) != 0; }

Factors even(float am) {
  const float up = std::bit_cast<float>((std::bit_cast<std::uint32_t>(am) + (1u << 21)) & 0xff800000u);
  return power_of_two(exponent_of(up) - 2);
}

Factors rceil(float am) {
  const float v = am * (1.0f / 6.0f);
  if (v <= 0x1p-127f) return power_of_two(-127);
  return power_of_two(exponent_of(v) + between_powers(v));
}

Factors ceil(float am) { return power_of_two(exponent_of(am) + between_powers(am) - 2); }

// `to_four` is Four-over-Six's second candidate.
Factors factors(const Spec& spec, float am, float a, bool to_four) {
  switch (spec.mode) {
    case Mode::te: return te(am, a);
    case Mode::te46:
    case Mode::te46_mae: return four_over_six(am, a, to_four);
    case Mode::torchao: return torchao(am, a);
    case Mode::torchao_one_level: return torchao_one_level(am);
    case Mode::ct: return compressed_tensors(am, a, false);
    case Mode::ct_bf16: return compressed_tensors(am, a, true);
    case Mode::floor: return power_of_two(exponent_of(am) - 2);
    case Mode::even: return even(am);
    case Mode::rceil: return rceil(am);
    case Mode::ceil: return ceil(am);
  }
  assert(!"unknown mode");
  return {};
}

// 22 random bits of an element: SplitMix64 seeded with a SplitMix64 output, at step `index`.
std::uint32_t random_22(std::uint64_t seed, std::int64_t index) {
  const auto output = [](std::uint64_t state) {
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  constexpr std::uint64_t step = 0x9e3779b97f4a7c15u;
  return static_cast<std::uint32_t>(output(output(seed + step) + (static_cast<std::uint64_t>(index) + 1) * step) >> 42);
}

// y's place between its two neighbours on the grid, in 2^-22ths, decides with what probability it goes up. Numbers below
// 1 are first rounded to a multiple of 2^-23.
std::uint8_t stochastic_e2m1(float y, std::uint32_t random) {
  float a = std::min(std::fabs(y), 6.0f);
  if (a < 1) a = (1.0f + a) - 1.0f;
  std::uint8_t code = 7;
  while (decode_e2m1(code) > a) --code;
  if (code < 7) {
    const double lower = decode_e2m1(code), upper = decode_e2m1(static_cast<std::uint8_t>(code + 1));
    code += (a - lower) / (upper - lower) * 0x1p22 + random >= 0x1p22;
  }
  return static_cast<std::uint8_t>(code | (std::signbit(y) ? 8 : 0));
}

// Sum of the block's errors: along a row or a column one after the other; in a tile so for each row, and the sixteen
// sums in halves, the first half plus the second, until one is left. Inf and NaN have no error.
float four_over_six_sum(const Spec& spec, float a, const Factors& f, const float* in, const BlockShape& shape) {
  const auto error = [&](int r, int c) {
    const float x = in[r * shape.row_stride + c * shape.col_stride];
    return std::isfinite(x) ? four_over_six_error(spec.mode == Mode::te46, x, a, f) : 0;
  };
  if (!spec.tiles) {
    float sum = 0;
    for (int r = 0; r < shape.height; ++r)
      for (int c = 0; c < shape.width; ++c) sum += error(r, c);
    return sum;
  }
  std::array<float, 16> rows{};
  for (int r = 0; r < shape.height; ++r)
    for (int c = 0; c < shape.width; ++c) rows[static_cast<std::size_t>(r)] += error(r, c);
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t r = 0; r < half; ++r) rows[r] += rows[r + half];
  return rows[0];
}

}  // namespace

float element(const ConstView& x, std::int64_t r, std::int64_t c) {
  const std::ptrdiff_t at = r * x.row_stride + c * x.col_stride;
  if (x.type == Type::fp32) return static_cast<const float*>(x.data)[at];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(x.data)[at];
  return x.type == Type::bf16 ? decode_bf16(bits) : decode_fp16(bits);
}

BlockResult reference_block(const Spec& spec, float tensor_max, const float* in, float* out, const BlockShape& shape,
                            std::uint8_t* codes) {
  const auto at = [&](int r, int c) { return r * shape.row_stride + c * shape.col_stride; };
  float am = 0;  // over the finite elements
  bool all_finite = true;
  for (int r = 0; r < shape.height; ++r) {
    for (int c = 0; c < shape.width; ++c) {
      const float x = in[at(r, c)];
      if (std::isfinite(x)) am = std::max(am, std::fabs(x));
      else all_finite = false;
    }
  }
  if (!all_finite && spec.non_finite == NonFinite::propagate) {
    for (int r = 0; r < shape.height; ++r)
      for (int c = 0; c < shape.width; ++c) out[at(r, c)] = std::numeric_limits<float>::quiet_NaN();
    if (codes) std::fill_n(codes, shape.height * shape.width, std::uint8_t{0});
    return {.poisoned = true};
  }
  Factors f = factors(spec, am, tensor_max, false);
  if (spec.mode == Mode::te46 || spec.mode == Mode::te46_mae) {
    const Factors second = factors(spec, am, tensor_max, true);
    const float error = four_over_six_sum(spec, tensor_max, f, in, shape);
    if (four_over_six_sum(spec, tensor_max, second, in, shape) < error) f = second;  // a tie takes the first
  }
  const bool divides = spec.mode == Mode::ct || spec.mode == Mode::ct_bf16;
  BlockResult result{.stored = f.stored, .decode = f.decode};
  for (int r = 0; r < shape.height; ++r) {
    for (int c = 0; c < shape.width; ++c) {
      const float x = in[at(r, c)];
      float y = divides ? x / f.encode : x * f.encode;
      if (divides && y == 0) y = 0;  // compressed-tensors has no negative zero here
      std::uint8_t code;
      if (!std::isfinite(x)) {
        code = x < 0 ? 15 : 7;  // hw_saturate: Inf to ±6, NaN to +6, as the conversion instructions do
      } else if (spec.rounding == Rounding::stochastic) {
        code = stochastic_e2m1(y, random_22(spec.seed, shape.index + r * shape.index_row_stride + c));
      } else {
        code = encode_e2m1(y);
      }
      result.saturated += (code & 7) == 7;
      if (codes) codes[r * shape.width + c] = code;
      out[at(r, c)] = decode_e2m1(code) * f.decode;
    }
  }
  return result;
}

namespace {

void set_element(const View& x, std::int64_t r, std::int64_t c, float value) {
  const std::ptrdiff_t at = r * x.row_stride + c * x.col_stride;
  if (x.type == Type::fp32) static_cast<float*>(x.data)[at] = value;
  else static_cast<std::uint16_t*>(x.data)[at] = x.type == Type::bf16 ? encode_bf16(value) : encode_fp16(value);
}

// Calls visit(row, col, A, before, after, result) for each block: its elements in fp32, before and after, row by row.
template <class Visit>
void for_blocks(const Spec& spec, float tensor_max, const ConstView& in, int axis, std::int64_t first_row, Visit visit) {
  const std::int64_t height = spec.tiles || axis == 0 ? spec.block() : 1;
  const std::int64_t width = spec.tiles || axis == 1 ? spec.block() : 1;
  std::array<float, 256> before, after;
  for (std::int64_t r = 0; r < in.rows; r += height) {
    float a = tensor_max;
    if (spec.scope == Scope::fixed) a = spec.static_max;
    if (spec.scope == Scope::row) {
      a = 0;
      for (std::int64_t c = 0; c < in.cols; ++c) {
        const float x = element(in, r, c);
        if (std::isfinite(x)) a = std::max(a, std::fabs(x));
      }
    }
    for (std::int64_t c = 0; c < in.cols; c += width) {
      const BlockShape shape{.height = static_cast<int>(std::min(height, in.rows - r)),
                             .width = static_cast<int>(std::min(width, in.cols - c)),
                             .row_stride = width,
                             .index = (first_row + r) * in.cols + c,
                             .index_row_stride = in.cols};
      for (int i = 0; i < shape.height; ++i)
        for (int j = 0; j < shape.width; ++j) before[static_cast<std::size_t>(i * width + j)] = element(in, r + i, c + j);
      const BlockResult result = reference_block(spec, a, before.data(), after.data(), shape);
      visit(r, c, shape, before.data(), after.data(), result);
    }
  }
}

}  // namespace

int reference_block(const Spec& spec, float tensor_max, const float* in, float* out, int n, std::ptrdiff_t stride) {
  assert(spec.rounding == Rounding::nearest_even && !spec.tiles);
  return reference_block(spec, tensor_max, in, out, BlockShape{.width = n, .col_stride = stride}).saturated;
}

std::int64_t reference_piece(const Spec& spec, float tensor_max, const ConstView& in, const View& out, int axis,
                             std::int64_t first_row) {
  std::int64_t saturated = 0;
  for_blocks(spec, tensor_max, in, axis, first_row,
             [&](std::int64_t r, std::int64_t c, const BlockShape& shape, const float*, const float* after,
                 const BlockResult& result) {
               for (int i = 0; i < shape.height; ++i)
                 for (int j = 0; j < shape.width; ++j) set_element(out, r + i, c + j, after[i * shape.row_stride + j]);
               saturated += result.saturated;
             });
  return saturated;
}

void fake_quantize_reference(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols,
                             int axis, ErrorStats* stats) {
  float tensor_max = 0;
  if (needs_tensor_max(spec)) {
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      if (std::isfinite(in[i])) tensor_max = std::max(tensor_max, std::fabs(in[i]));
    }
  }
  fake_quantize_piece(spec, tensor_max, in, out, rows, cols, axis, stats, Path::reference);
}

void each_block(const Spec& spec, const ConstView& in, int axis,
                const std::function<void(std::int64_t row, std::int64_t col, const ErrorStats&)>& visit) {
  require(spec, axis);
  for_blocks(spec, finite_max(in), in, axis, 0,
             [&](std::int64_t r, std::int64_t c, const BlockShape& shape, const float* before, const float* after,
                 const BlockResult& result) {
               ErrorStats stats;
               for (int i = 0; i < shape.height; ++i)
                 accumulate(stats, before + i * shape.row_stride, after + i * shape.row_stride, shape.width);
               stats.saturated = result.saturated;
               visit(r, c, stats);
             });
}

}  // namespace assay::quant
