#include "quant/formats.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>

namespace assay::quant {
namespace {

struct ModeEntry {
  Mode mode;
  Format format;
  std::string_view name;
};
// The first mode of a format is its default.
constexpr std::array modes = std::to_array<ModeEntry>({
    {Mode::te, Format::nvfp4, "te"},
    {Mode::te46, Format::nvfp4, "te46"},
    {Mode::te46_mae, Format::nvfp4, "te46_mae"},
    {Mode::torchao, Format::nvfp4, "torchao"},
    {Mode::torchao_one_level, Format::nvfp4, "torchao_one_level"},
    {Mode::ct, Format::nvfp4, "ct"},
    {Mode::ct_bf16, Format::nvfp4, "ct_bf16"},
    {Mode::floor, Format::mxfp4, "floor"},
    {Mode::even, Format::mxfp4, "even"},
    {Mode::rceil, Format::mxfp4, "rceil"},
    {Mode::ceil, Format::mxfp4, "ceil"},
});

// Names in the order of their enumerators.
using Names = std::span<const std::string_view>;
constexpr std::string_view formats[] = {"nvfp4", "mxfp4"};
constexpr std::string_view scopes[] = {"tensor", "row", "static"};
constexpr std::string_view policies[] = {"propagate", "hw_saturate"};
constexpr std::string_view roundings[] = {"nearest_even", "stochastic"};
constexpr std::string_view types[] = {"fp32", "bf16", "fp16"};

template <class Enum>
std::optional<Enum> parse(Names names, std::string_view name) {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) return std::nullopt;
  return static_cast<Enum>(at - names.begin());
}

template <class Enum>
std::string_view name_of(Names names, Enum value) {
  return names[static_cast<std::size_t>(value)];
}

// Rounds a finite value >= 0 to an integer, ties to even, whatever the rounding mode of the machine says.
int round_half_even(double v) {
  const double below = std::floor(v);
  const double rest = v - below;
  const int n = static_cast<int>(below);
  if (rest > 0.5) return n + 1;
  if (rest < 0.5) return n;
  return n + (n & 1);
}

}  // namespace

std::string_view objection(const Spec& spec, int axis) {
  if (is_mxfp4(spec.mode) != (spec.format == Format::mxfp4)) return "the mode belongs to the other format";
  if (axis != 0 && axis != 1) return "the axis is 0 or 1";
  if (spec.scope != Scope::tensor && !has_tensor_scale(spec.mode)) return "the mode has no tensor scale to give a scope";
  if (spec.scope == Scope::row && (axis == 0 || spec.tiles)) return "a scale per row needs blocks along the row";
  if (spec.scope == Scope::fixed && !(spec.static_max >= 0 && std::isfinite(spec.static_max)))
    return "the calibrated maximum is a finite number not below 0";
  if (spec.tiles && spec.format != Format::nvfp4) return "16x16 tiles are NVFP4's";
  if (spec.rounding == Rounding::stochastic && (spec.mode == Mode::te46 || spec.mode == Mode::te46_mae))
    return "Four-over-Six compares errors, so it rounds to nearest even";
  return "";
}

void require(const Spec& spec, int axis) {
  if (const std::string_view wrong = objection(spec, axis); !wrong.empty())
    throw std::invalid_argument("quantize: " + std::string(wrong));
}

std::optional<Format> parse_format(std::string_view name) { return parse<Format>(formats, name); }
std::optional<Scope> parse_scope(std::string_view name) { return parse<Scope>(scopes, name); }
std::optional<NonFinite> parse_non_finite(std::string_view name) { return parse<NonFinite>(policies, name); }
std::optional<Rounding> parse_rounding(std::string_view name) { return parse<Rounding>(roundings, name); }
std::optional<Type> parse_type(std::string_view name) { return parse<Type>(types, name); }

std::string_view name(Format format) { return name_of(formats, format); }
std::string_view name(Scope scope) { return name_of(scopes, scope); }
std::string_view name(NonFinite policy) { return name_of(policies, policy); }
std::string_view name(Rounding rounding) { return name_of(roundings, rounding); }
std::string_view name(Type type) { return name_of(types, type); }

std::optional<Mode> parse_mode(Format format, std::string_view name) {
  for (const ModeEntry& entry : modes) {
    if (entry.format == format && (name.empty() || entry.name == name)) return entry.mode;
  }
  return std::nullopt;
}

std::string_view name(Mode mode) {
  for (const ModeEntry& entry : modes) {
    if (entry.mode == mode) return entry.name;
  }
  return "";
}

std::vector<std::string> mode_names(Format format) {
  std::vector<std::string> names;
  for (const ModeEntry& entry : modes) {
    if (entry.format == format) names.emplace_back(entry.name);
  }
  return names;
}

std::uint8_t encode_e2m1(float x) {
  const float a = std::fabs(x);
  // Midpoints between neighbours; one that belongs to the code below it is compared with <=.
  const int code = a <= 0.25f ? 0 : a < 0.75f ? 1 : a <= 1.25f ? 2 : a < 1.75f ? 3
                   : a <= 2.5f ? 4 : a < 3.5f ? 5 : a <= 5.0f ? 6 : 7;
  return static_cast<std::uint8_t>(code | (std::signbit(x) ? 8 : 0));
}

float decode_e2m1(std::uint8_t code) {
  constexpr std::array<float, 8> grid{0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = grid[code & 7];
  return code & 8 ? -magnitude : magnitude;
}

std::uint8_t encode_e4m3(float x) {
  const int sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return static_cast<std::uint8_t>(sign | 0x7f);
  const double a = std::fabs(static_cast<double>(x));
  int code;
  if (a >= 448) {
    code = 0x7e;
  } else if (a < 0x1p-6) {
    code = round_half_even(a * 512);  // subnormals: multiples of 2^-9; 8 of them are 2^-6, code 8
  } else {
    const int exponent = std::ilogb(a);
    // The carry of a rounded-up mantissa moves into the exponent by itself.
    code = ((exponent + 7) << 3) + round_half_even(std::ldexp(a, 3 - exponent)) - 8;
  }
  return static_cast<std::uint8_t>(sign | code);
}

float decode_e4m3(std::uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  float magnitude;
  if ((code & 0x7f) == 0x7f) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return std::copysign(magnitude, code & 0x80 ? -1.0f : 1.0f);
}

std::uint8_t encode_e8m0(float power) {
  const int code = std::ilogb(power) + 127;
  assert(code >= 0 && code <= 254 && std::ldexp(1.0f, code - 127) == power);
  return static_cast<std::uint8_t>(code);
}

float decode_e8m0(std::uint8_t code) {
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, code - 127);
}

std::uint16_t encode_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return static_cast<std::uint16_t>(std::signbit(x) ? 0xffc0 : 0x7fc0);
  const std::uint32_t below = bits & 0xffff;
  const bool up = below > 0x8000 || (below == 0x8000 && (bits & 0x10000));
  return static_cast<std::uint16_t>((bits >> 16) + (up ? 1 : 0));  // the carry may reach the exponent, and Inf
}

float decode_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t encode_fp16(float x) {
  const int sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return static_cast<std::uint16_t>(sign | 0x7e00);
  const double a = std::fabs(static_cast<double>(x));
  int code;
  if (a >= 65520) {
    code = 0x7c00;
  } else if (a < 0x1p-14) {
    code = round_half_even(a * 0x1p24);
  } else {
    const int exponent = std::ilogb(a);
    code = ((exponent + 15) << 10) + round_half_even(std::ldexp(a, 10 - exponent)) - 1024;
  }
  return static_cast<std::uint16_t>(sign | code);
}

float decode_fp16(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return std::copysign(magnitude, bits & 0x8000 ? -1.0f : 1.0f);
}

}  // namespace assay::quant
