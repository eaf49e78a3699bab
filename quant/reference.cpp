#include "quant/reference.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

namespace assay::quant {
namespace {

float to_e4m3(float x) { return decode_e4m3(encode_e4m3(x)); }

// The factor an element is multiplied with before E2M1 rounding, and the one after.
struct Factors {
  float encode, decode;
};

Factors te(float am, float a) {
  float s_encode = std::min(2688.0f / a, FLT_MAX);  // S
  if (a == 0 || s_encode == 0) s_encode = 1;
  const float s = to_e4m3(am * (s_encode * (1.0f / 6.0f)));
  const float encode = std::min(1.0f / (s * (1.0f / s_encode)), FLT_MAX);
  float decode = (s * a) * (1.0f / 2688.0f);
  if (std::isinf(s * a)) decode = s * (a * (1.0f / 2688.0f));
  // 6 * decode must stay finite: only a block that holds FLT_MAX itself, or nearly, comes here.
  while (std::isinf(6.0f * decode)) decode = std::nextafter(decode, 0.0f);
  return {encode, decode};
}

Factors torchao_one_level(float am) {
  const float s = to_e4m3(std::clamp(am / 6.0f, 0x1p-6f, 448.0f));
  return {1.0f / s, s};
}

Factors floor_power_of_two(float am) {
  const int exponent_field = static_cast<int>(std::bit_cast<std::uint32_t>(am) >> 23);
  const int byte = std::clamp(exponent_field - 2, 0, 254);
  return {std::ldexp(1.0f, 127 - byte), decode_e8m0(static_cast<std::uint8_t>(byte))};
}

Factors factors(const Spec& spec, float am, float tensor_max) {
  switch (spec.mode) {
    case Mode::te: return te(am, tensor_max);
    case Mode::torchao_one_level: return torchao_one_level(am);
    case Mode::floor: return floor_power_of_two(am);
  }
  assert(!"unknown mode");
  return {};
}

}  // namespace

int reference_block(const Spec& spec, float tensor_max, const float* in, float* out, int n, std::ptrdiff_t stride) {
  float am = 0;  // over the finite elements
  bool all_finite = true;
  for (int i = 0; i < n; ++i) {
    const float x = in[i * stride];
    if (std::isfinite(x)) am = std::max(am, std::fabs(x));
    else all_finite = false;
  }
  if (!all_finite && spec.non_finite == NonFinite::propagate) {
    for (int i = 0; i < n; ++i) out[i * stride] = std::numeric_limits<float>::quiet_NaN();
    return 0;
  }
  const Factors f = factors(spec, am, tensor_max);
  int saturated = 0;
  for (int i = 0; i < n; ++i) {
    const float x = in[i * stride];
    // hw_saturate: Inf to ±6, NaN to +6, as the conversion instructions do.
    const std::uint8_t code = std::isnan(x) ? 7 : std::isinf(x) ? (x < 0 ? 15 : 7) : encode_e2m1(x * f.encode);
    saturated += (code & 7) == 7;
    out[i * stride] = decode_e2m1(code) * f.decode;
  }
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

}  // namespace assay::quant
