#include "quant/torch/fake_quantize.h"

#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include "quant/fake_quantize.h"

#include <algorithm>
#include <functional>

namespace assay::quant {
namespace {

// Elements a thread should have at least. Nothing depends on it but speed: maxima and blocks do not care who does them.
constexpr std::int64_t grain = 1 << 16;

void check(const at::Tensor& x, const Spec& spec, int axis) {
  TORCH_CHECK(x.device().is_cpu(), "quantize: tensors on ", x.device(), " are not supported, only cpu");
  TORCH_CHECK(x.scalar_type() == at::kFloat, "quantize: dtype ", x.scalar_type(), " is not supported, only float32");
  TORCH_CHECK(axis == 0 || axis == 1, "quantize: axis is 0 or 1, not ", axis);
  TORCH_CHECK(axis == 1 || spec.scope == Scope::tensor, "quantize: a scale per row needs blocks along the row (axis 1)");
}

// The values, on memory. `from` and `to` are contiguous and may be the same.
void quantize_memory(const Spec& spec, const float* from, float* to, std::int64_t rows, std::int64_t cols, int axis,
                     ErrorStats* stats) {
  const std::int64_t n = rows * cols;
  if (stats || n < 2 * grain || at::get_num_threads() == 1 || at::in_parallel_region()) {
    fake_quantize(spec, from, to, rows, cols, axis, stats);  // the sums of stats have one order
    return;
  }
  float tensor_max = 0;
  if (needs_tensor_max(spec)) {
    tensor_max = at::parallel_reduce(
        0, n, grain, 0.0f,
        [&](std::int64_t begin, std::int64_t end, float m) { return std::max(m, finite_max(from + begin, end - begin)); },
        [](float a, float b) { return std::max(a, b); });
  }
  const std::int64_t unit = axis == 0 ? spec.block() : 1;  // rows that stay together
  const std::int64_t units = (rows + unit - 1) / unit;
  at::parallel_for(0, units, std::max<std::int64_t>(1, grain / (unit * cols)), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * unit, last = std::min(rows, end * unit);
    fake_quantize_piece(spec, tensor_max, from + first * cols, to + first * cols, last - first, cols, axis);
  });
}

}  // namespace

at::Tensor fake_quantize(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats) {
  check(x, spec, axis);
  const at::NoGradGuard no_grad;
  const std::int64_t cols = x.dim() == 0 ? 1 : x.size(-1);
  const std::int64_t rows = cols == 0 ? 0 : x.numel() / cols;
  at::Tensor from = x, to;
  if (x.is_contiguous()) {
    to = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous));
  } else {
    from = to = x.contiguous();  // a copy of our own, quantized in place
  }
  quantize_memory(spec, from.const_data_ptr<float>(), to.mutable_data_ptr<float>(), rows, cols, axis, stats);
  return to;
}

namespace {

struct StraightThrough : torch::autograd::Function<StraightThrough> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x, const Spec& spec, int axis,
                            ErrorStats* stats) {
    return fake_quantize(x, spec, axis, stats);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list gradient) {
    return {gradient[0], {}, {}, {}};
  }
};

}  // namespace

at::Tensor fake_quantize_ste(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats) {
  return StraightThrough::apply(x, spec, axis, stats);
}

}  // namespace assay::quant
