#include "quant/torch/hadamard.h"

#include <torch/autograd.h>
#include <torch/types.h>

#include <algorithm>

#include "quant/hadamard.h"
#include "quant/torch/device.h"
#include "quant/torch/parallel.h"

namespace assay::quant {
namespace {

at::Tensor transformed(const at::Tensor& x, std::uint16_t signs, bool inverse) {
  TORCH_CHECK((x.is_cpu() || x.is_cuda()) && x.scalar_type() == at::kFloat && x.dim() > 0 && x.size(-1) % 16 == 0,
              "hadamard: a float32 tensor on cpu or cuda is wanted, whose last size is a multiple of 16");
  const at::Tensor from = x.resolve_neg().contiguous();
  if (!x.is_cpu()) return hadamard_on_device(from, signs, inverse);
  const at::Tensor to = at::empty_like(from);
  const std::int64_t cols = x.size(-1), rows = cols == 0 ? 0 : x.numel() / cols;
  const float* in = from.const_data_ptr<float>();
  float* out = to.mutable_data_ptr<float>();
  const auto run = inverse ? inverse_hadamard16 : hadamard16;
  over_rows(rows, std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(cols, 1)),
            [&](std::int64_t first, std::int64_t last) {
              run(in + first * cols, out + first * cols, last - first, cols, signs);
            });
  return to;
}

struct Transform : torch::autograd::Function<Transform> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, std::int64_t signs, bool inverse) {
    context->saved_data["signs"] = signs;
    context->saved_data["inverse"] = inverse;
    return transformed(x, static_cast<std::uint16_t>(signs), inverse);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradient) {
    const auto signs = static_cast<std::uint16_t>(context->saved_data["signs"].toInt());
    return {transformed(gradient[0], signs, !context->saved_data["inverse"].toBool()), {}, {}};
  }
};

}  // namespace

at::Tensor hadamard(const at::Tensor& x, std::uint16_t signs) { return Transform::apply(x, signs, false); }
at::Tensor inverse_hadamard(const at::Tensor& x, std::uint16_t signs) { return Transform::apply(x, signs, true); }

}  // namespace assay::quant
