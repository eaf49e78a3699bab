// FP4 formats: names, parameters, and the scalar codecs. Plain C++, no LibTorch.
//
// All arithmetic is fp32, evaluated as bracketed, without contraction or reassociation (this folder is compiled with
// -ffp-contract=off). docs/quantization.md gives the formulas and where they come from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace assay::quant {

enum class Format : std::uint8_t { nvfp4, mxfp4 };
enum class Mode : std::uint8_t {
  te,                 // NVFP4, two levels, as TransformerEngine computes it
  torchao_one_level,  // NVFP4 without the fp32 tensor scale, block scale clamped to [2^-6, 448]
  floor,              // MXFP4, OCP: power of two below
};
// Over what the fp32 tensor scale of NVFP4 is taken. `row`: a row's value never depends on other rows.
enum class Scope : std::uint8_t { tensor, row };
// What becomes of a block that holds NaN or Inf.
enum class NonFinite : std::uint8_t { propagate, hw_saturate };

struct Spec {
  Format format = Format::nvfp4;
  Mode mode = Mode::te;
  Scope scope = Scope::tensor;
  NonFinite non_finite = NonFinite::propagate;

  constexpr int block() const { return format == Format::nvfp4 ? 16 : 32; }
  friend bool operator==(const Spec&, const Spec&) = default;
};

// Names as configs write them. nullopt for an unknown name, or for a mode that the format does not have.
std::optional<Format> parse_format(std::string_view name);
std::optional<Mode> parse_mode(Format format, std::string_view name);  // "" gives the default: te, floor
std::string_view name(Format format);
std::string_view name(Mode mode);
std::vector<std::string> mode_names(Format format);  // default first

// ---- codecs (bit-exact with ml_dtypes' float4_e2m1fn and float8_e4m3fn where those saturate) ----
// E2M1: sign, 2 exponent bits, 1 mantissa bit; 0 .5 1 1.5 2 3 4 6. Round to nearest even, saturate at 6.
std::uint8_t encode_e2m1(float x);        // 0..15; NaN is the caller's business
float decode_e2m1(std::uint8_t code);
// E4M3 (fn): bias 7, max 448, no infinity, 0x7f/0xff NaN. Round to nearest even, saturate at 448.
std::uint8_t encode_e4m3(float x);
float decode_e4m3(std::uint8_t code);
// E8M0: 2^(code - 127), 255 is NaN.
float decode_e8m0(std::uint8_t code);

}  // namespace assay::quant
