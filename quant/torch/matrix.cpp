#include "quant/torch/matrix.h"

#include <ATen/TensorUtils.h>
#include <torch/types.h>

#include <algorithm>
#include <mutex>

#include "quant/torch/parallel.h"

namespace assay::quant {
namespace {

// Elements a thread should have at least. Nothing depends on it but speed: maxima and blocks do not care who does them.
constexpr std::int64_t grain = 1 << 14;

bool worth_sharing(const ConstView& x) {
  return x.rows * x.cols >= 2 * grain;
}

Type type_of(const at::Tensor& x) {
  TORCH_CHECK(x.device().is_cpu(), "quantize: tensors on ", x.device(), " are not supported, only cpu");
  TORCH_CHECK(x.layout() == at::kStrided && !x.is_neg(), "quantize: only plain dense tensors are supported");
  switch (x.scalar_type()) {
    case at::kFloat: return Type::fp32;
    case at::kBFloat16: return Type::bf16;
    case at::kHalf: return Type::fp16;
    default: break;
  }
  TORCH_CHECK(false, "quantize: dtype ", x.scalar_type(), " is not supported, only float32, bfloat16 and float16");
}

}  // namespace

std::optional<ConstView> matrix_view(const at::Tensor& x) {
  const Type type = type_of(x);
  const std::int64_t cols = x.dim() == 0 ? 1 : x.size(-1), rows = cols == 0 ? 0 : x.numel() / cols;
  if (x.numel() == 0) return ConstView{x.const_data_ptr(), type, rows, cols, cols, 1};
  const auto strides = at::detail::computeStride(x.sizes(), x.strides(), at::DimVector{rows, cols});
  if (!strides) return std::nullopt;
  return ConstView{x.const_data_ptr(), type, rows, cols, (*strides)[0], (*strides)[1]};
}

View mutable_matrix_view(const at::Tensor& x) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous());
  const ConstView v = *matrix_view(x);
  return {x.mutable_data_ptr(), v.type, v.rows, v.cols, v.cols, 1};
}

float shared_finite_max(const ConstView& x) {
  if (!worth_sharing(x)) return finite_max(x);
  float largest = 0;
  std::mutex mine;
  over_rows(x.rows, std::max<std::int64_t>(1, grain / x.cols), [&](std::int64_t begin, std::int64_t end) {
    const float m = finite_max(rows_of(x, begin, end));
    const std::lock_guard lock(mine);
    largest = std::max(largest, m);
  });
  return largest;
}

void shared_fake_quantize(const Spec& spec, const ConstView& from, const View& to, int axis) {
  shared_fake_quantize_piece(spec, needs_tensor_max(spec) ? shared_finite_max(from) : 0, from, to, axis, 0);
}

void shared_fake_quantize_piece(const Spec& spec, float tensor_max, const ConstView& from, const View& to, int axis,
                                std::int64_t first_row) {
  if (!worth_sharing(from)) return fake_quantize_piece(spec, tensor_max, from, to, axis, first_row);
  const std::int64_t unit = axis == 0 || spec.tiles ? spec.block() : 1;  // rows that stay together
  const std::int64_t units = (from.rows + unit - 1) / unit;
  over_rows(units, std::max<std::int64_t>(1, grain / (unit * from.cols)), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * unit, last = std::min(from.rows, end * unit);
    fake_quantize_piece(spec, tensor_max, rows_of(from, first, last), rows_of(to, first, last), axis, first_row + first);
  });
}

}  // namespace assay::quant
