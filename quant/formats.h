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
  te46,               // the same with Four-over-Six: of two block scales the one with the smaller squared error
  te46_mae,           // ... the smaller absolute error
  torchao,            // NVFP4, two levels, as torchao computes it
  torchao_one_level,  // NVFP4 without the fp32 tensor scale, block scale clamped to [2^-6, 448]
  ct,                 // NVFP4, two levels, as compressed-tensors computes it
  ct_bf16,            // ... from maxima kept in bf16, as it does for a bf16 model
  floor,              // MXFP4, OCP: power of two below
  even,               // MXFP4: from the maximum rounded to E2M1's mantissa
  rceil,              // MXFP4: power of two not below maximum / 6
  ceil,               // MXFP4: power of two not below the maximum, divided by 4
};
// Over what the fp32 tensor scale of NVFP4 is taken. `row`: a row's value never depends on other rows. `fixed` (the
// word is "static"): from Spec::static_max; larger values saturate.
enum class Scope : std::uint8_t { tensor, row, fixed };
// What becomes of a block that holds NaN or Inf.
enum class NonFinite : std::uint8_t { propagate, hw_saturate };
// Of elements; block scales are always rounded to nearest even. `stochastic` is unbiased but where a value lies above
// its block's largest, and saturates.
enum class Rounding : std::uint8_t { nearest_even, stochastic };
// What matrices hold. bf16 and fp16 are widened to fp32 first, exactly; results are rounded once, to nearest even.
enum class Type : std::uint8_t { fp32, bf16, fp16 };

struct Spec {
  Format format = Format::nvfp4;
  Mode mode = Mode::te;
  Scope scope = Scope::tensor;
  NonFinite non_finite = NonFinite::propagate;
  Rounding rounding = Rounding::nearest_even;
  bool tiles = false;       // NVFP4 only: 16x16 tiles share a scale, so a matrix and its transpose quantize alike
  float static_max = 0;     // Scope::fixed: the calibrated maximum, >= 0 and finite
  std::uint64_t seed = 0;   // Rounding::stochastic: with an element's place in the matrix, all its rounding depends on

  constexpr int block() const { return format == Format::nvfp4 ? 16 : 32; }
  friend bool operator==(const Spec&, const Spec&) = default;
};

constexpr bool is_mxfp4(Mode mode) { return mode >= Mode::floor; }
// Whether an fp32 scale over the tensor (or row) stands above the block scales.
constexpr bool has_tensor_scale(Mode mode) { return !is_mxfp4(mode) && mode != Mode::torchao_one_level; }
// What is wrong with a spec for blocks along `axis`, in a sentence for the user; empty when nothing is.
std::string_view objection(const Spec& spec, int axis);
// Throws std::invalid_argument with that sentence where something is: what every function does that takes a Spec.
void require(const Spec& spec, int axis);

// Names as configs write them. nullopt for an unknown name, or for a mode that the format does not have.
std::optional<Format> parse_format(std::string_view name);
std::optional<Mode> parse_mode(Format format, std::string_view name);  // "" gives the default: te, floor
std::optional<Scope> parse_scope(std::string_view name);        // tensor, row, static
std::optional<NonFinite> parse_non_finite(std::string_view name);
std::optional<Rounding> parse_rounding(std::string_view name);  // nearest_even, stochastic
std::optional<Type> parse_type(std::string_view name);          // fp32, bf16, fp16
std::string_view name(Format format);
std::string_view name(Mode mode);
std::string_view name(Scope scope);
std::string_view name(NonFinite policy);
std::string_view name(Rounding rounding);
std::string_view name(Type type);
std::vector<std::string> mode_names(Format format);  // default first

// ---- codecs (bit-exact with ml_dtypes' float4_e2m1fn and float8_e4m3fn where those saturate) ----
// E2M1: sign, 2 exponent bits, 1 mantissa bit; 0 .5 1 1.5 2 3 4 6. Round to nearest even, saturate at 6.
std::uint8_t encode_e2m1(float x);        // 0..15; NaN is the caller's business
float decode_e2m1(std::uint8_t code);
// E4M3 (fn): bias 7, max 448, no infinity, 0x7f/0xff NaN. Round to nearest even, saturate at 448.
std::uint8_t encode_e4m3(float x);
float decode_e4m3(std::uint8_t code);
// E8M0: 2^(code - 127), 255 is NaN. encode is for powers of two in that range, which block scales are; asserted.
std::uint8_t encode_e8m0(float power);
float decode_e8m0(std::uint8_t code);
// bf16 and IEEE fp16, as bits. Round to nearest even; beyond the largest number they are Inf; NaN stays NaN.
std::uint16_t encode_bf16(float x);
float decode_bf16(std::uint16_t bits);
std::uint16_t encode_fp16(float x);
float decode_fp16(std::uint16_t bits);

}  // namespace assay::quant
