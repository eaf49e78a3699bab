#include "quant/formats.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace assay::quant {
namespace {

struct ModeEntry {
  Mode mode;
  Format format;
  std::string_view name;
};
// The first mode of a format is its default.
constexpr std::array<ModeEntry, 3> modes{{
    {Mode::te, Format::nvfp4, "te"},
    {Mode::torchao_one_level, Format::nvfp4, "torchao_one_level"},
    {Mode::floor, Format::mxfp4, "floor"},
}};

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

std::optional<Format> parse_format(std::string_view name) {
  if (name == "nvfp4") return Format::nvfp4;
  if (name == "mxfp4") return Format::mxfp4;
  return std::nullopt;
}

std::optional<Mode> parse_mode(Format format, std::string_view name) {
  for (const ModeEntry& entry : modes) {
    if (entry.format == format && (name.empty() || entry.name == name)) return entry.mode;
  }
  return std::nullopt;
}

std::string_view name(Format format) { return format == Format::nvfp4 ? "nvfp4" : "mxfp4"; }

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

float decode_e8m0(std::uint8_t code) {
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, code - 127);
}

}  // namespace assay::quant
