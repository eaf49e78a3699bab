// Fake quantization (quantize, then dequantize) of fp32 matrices: the fast path. Same bits as quant/reference.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "quant/formats.h"
#include "quant/stats.h"

namespace assay::quant {

// Which code runs. All give the same bits.
enum class Path : std::uint8_t {
  reference,  // the scalar oracle
  generic,    // block.h as the compiler vectorises it for the baseline processor
  avx2,       // the same for x86-64-v3
};
bool available(Path path);   // on this machine
Path best_path();            // what fake_quantize() takes
std::optional<Path> parse_path(std::string_view name);
std::string_view name(Path path);

// Largest |x| over the finite elements of x[0..n); 0 when there is none.
float finite_max(const float* x, std::int64_t n);

// out = dequantize(quantize(in)) for a row-major matrix [rows, cols], blocks along `axis` (1: along a row, 0: down a
// column); a partial last block behaves as if padded with zeros. in == out is allowed, other overlap is not. rows or
// cols may be 0. Scope::row with axis 0 is refused by assertion: a row scale crosses the blocks.
// With `stats`, the figures of this call are added to it.
// Cost: reads the input twice for `te` with Scope::tensor (the tensor's maximum first), once otherwise; `stats` costs
// one more scalar pass, and a copy of the input when in == out. Never allocates without stats. One thread.
void fake_quantize(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols, int axis,
                   ErrorStats* stats = nullptr);

// The same for a piece of a tensor whose finite_max() is `tensor_max` (whole blocks: for axis 0 the piece starts at a
// multiple of the block). Only Scope::tensor with `te` looks at tensor_max. How several threads share a tensor: the
// bits do not depend on the pieces.
void fake_quantize_piece(const Spec& spec, float tensor_max, const float* in, float* out, std::int64_t rows,
                         std::int64_t cols, int axis, ErrorStats* stats = nullptr, Path path = best_path());

// True when the mode takes a scale from the whole tensor, so that finite_max() must be known first.
constexpr bool needs_tensor_max(const Spec& spec) { return spec.mode == Mode::te && spec.scope == Scope::tensor; }

}  // namespace assay::quant
