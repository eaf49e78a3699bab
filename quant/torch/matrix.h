// Tensors as the matrices of quant/, and the work on them shared by LibTorch's threads. For the files of this folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "quant/fake_quantize.h"

namespace assay::quant {

// x [..., C] as [rows, C], where its strides allow that. Throws c10::Error for what is not a dense CPU tensor of
// float32, bfloat16 or float16, or is a negative view, whose memory holds other values.
std::optional<ConstView> matrix_view(const at::Tensor& x);
// The same for a contiguous tensor that is to be written.
View mutable_matrix_view(const at::Tensor& x);

// Rows [first, last) of a matrix.
template <class Pointer>
Strided<Pointer> rows_of(Strided<Pointer> x, std::int64_t first, std::int64_t last) {
  using Byte = std::conditional_t<std::is_same_v<Pointer, void*>, char, const char>;
  x.data = static_cast<Byte*>(x.data) + first * x.row_stride * (x.type == Type::fp32 ? 4 : 2);
  x.rows = last - first;
  return x;
}

// finite_max() and fake_quantize(); `from` and `to` may be the same matrix. The bits do not depend on the threads.
float shared_finite_max(const ConstView& x);
void shared_fake_quantize(const Spec& spec, const ConstView& from, const View& to, int axis);
// fake_quantize_piece(), where a piece is big enough to be shared.
void shared_fake_quantize_piece(const Spec& spec, float tensor_max, const ConstView& from, const View& to, int axis,
                                std::int64_t first_row);

}  // namespace assay::quant
