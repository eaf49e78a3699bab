// Fake quantization (quantize, then dequantize) of matrices: the fast path. Same bits as quant/reference.h.
#pragma once

#include <cstddef>
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
  avx512,     // the same for x86-64-v4
};
bool available(Path path);   // on this machine
Path best_path();            // what fake_quantize() takes
std::optional<Path> parse_path(std::string_view name);
std::string_view name(Path path);

// A matrix in memory: element (r, c) lies row_stride * r + col_stride * c elements behind `data`. Strides may have any
// value (a transposed or sliced view) as long as no two elements of an output share their memory.
template <class Pointer>
struct Strided {
  Pointer data = nullptr;
  Type type = Type::fp32;
  std::int64_t rows = 0, cols = 0;
  std::ptrdiff_t row_stride = 0, col_stride = 1;
};
using ConstView = Strided<const void*>;
using View = Strided<void*>;
inline ConstView view(const float* x, std::int64_t rows, std::int64_t cols) {
  return {x, Type::fp32, rows, cols, cols, 1};
}
inline ConstView as_const(const View& x) { return {x.data, x.type, x.rows, x.cols, x.row_stride, x.col_stride}; }
inline View view(float* x, std::int64_t rows, std::int64_t cols) { return {x, Type::fp32, rows, cols, cols, 1}; }

// Largest |x| over the finite elements of x[0..n), or of a matrix; 0 when there is none.
float finite_max(const float* x, std::int64_t n);
float finite_max(const ConstView& x);

// True when the mode takes a scale from the whole tensor, so that finite_max() must be known first.
constexpr bool needs_tensor_max(const Spec& spec) { return has_tensor_scale(spec.mode) && spec.scope == Scope::tensor; }

// out = dequantize(quantize(in)); in and out have one shape and type. Blocks along `axis` (1: along a row, 0: down a
// column; with spec.tiles neither); a partial last block behaves as if padded with zeros. in and out may be the same
// matrix; other overlap is not allowed. rows or cols may be 0. objection(spec, axis) is asserted to be empty.
// With `stats`, the figures of this call are added to it.
// Cost: reads the input twice where needs_tensor_max() (and each row twice with Scope::row), once otherwise; `stats`
// costs a copy of the input and one of the output in fp32, and a scalar pass. Never allocates without. One thread.
void fake_quantize(const Spec& spec, const ConstView& in, const View& out, int axis, ErrorStats* stats = nullptr);

// The same for a piece of a matrix: rows first_row... of it, whole rows, and for axis 0 and tiles first_row is a
// multiple of the block. `tensor_max` is the whole matrix's finite_max(); only needs_tensor_max() specs look at it. How
// several threads share a matrix: the bits do not depend on the pieces.
void fake_quantize_piece(const Spec& spec, float tensor_max, const ConstView& in, const View& out, int axis,
                         std::int64_t first_row, ErrorStats* stats = nullptr, Path path = best_path());

// Both for row-major fp32 (a piece starts at row 0: Rounding::nearest_even, or the whole matrix).
void fake_quantize(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols, int axis,
                   ErrorStats* stats = nullptr);
void fake_quantize_piece(const Spec& spec, float tensor_max, const float* in, float* out, std::int64_t rows,
                         std::int64_t cols, int axis, ErrorStats* stats = nullptr, Path path = best_path());

}  // namespace assay::quant
