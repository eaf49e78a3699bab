#include "quant/torch/gradient.h"

#include <torch/types.h>

#include <algorithm>

#include "quant/hadamard.h"
#include "quant/torch/fake_quantize.h"
#include "quant/torch/hadamard.h"
#include "quant/torch/matrix.h"
#include "quant/torch/parallel.h"

namespace assay::quant {
namespace {

// f(first, last) over rows of `width` elements, by several threads where that pays.
template <class F>
void shared(std::int64_t rows, std::int64_t width, const F& f) {
  over_rows(rows, std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(width, 1)), f);
}

}  // namespace

std::string_view objection(const GradientSpec& spec) {
  if (spec.spec.rounding != Rounding::stochastic) return "gradients are rounded stochastically";
  if (spec.spec.tiles) return "gradients have blocks along the axis that is summed over, not tiles";
  return objection(spec.spec, 1);
}

at::Tensor quantize_gradient(const at::Tensor& g, const GradientSpec& gradient, std::uint64_t seed, int axis) {
  const std::string_view wrong = objection(gradient);
  TORCH_CHECK(wrong.empty(), "quantized gradient: ", wrong);
  TORCH_CHECK(g.dim() == 2 && g.scalar_type() == at::kFloat, "quantized gradient: a float32 matrix is wanted");
  const at::NoGradGuard no_grad;
  Spec spec = gradient.spec;
  spec.seed = 2 * seed + static_cast<std::uint64_t>(axis);
  // The summed axis last, so that a scale per row is one per element of the result's other axis.
  const at::Tensor from = axis == 1 ? g : g.t();
  if (!gradient.hadamard) {
    const at::Tensor made = fake_quantize(from, spec, 1);
    return axis == 1 ? made : made.t();
  }
  const std::int64_t rows = from.size(0), cols = from.size(1), padded = (cols + 15) / 16 * 16;
  const at::Tensor made = at::empty({rows, padded}, g.options().memory_format(at::MemoryFormat::Contiguous));
  made.narrow(1, 0, cols).copy_(from);
  made.narrow(1, cols, padded - cols).zero_();
  const std::uint16_t signs = hadamard_signs(spec.seed);
  if (!g.is_cpu()) {
    const at::Tensor back = inverse_hadamard(fake_quantize(hadamard(made, signs), spec, 1), signs).narrow(1, 0, cols);
    return axis == 1 ? back : back.t();
  }
  float* data = made.mutable_data_ptr<float>();
  shared(rows, padded, [&](std::int64_t first, std::int64_t last) {
    hadamard16(data + first * padded, data + first * padded, last - first, padded, signs);
  });
  const View all = mutable_matrix_view(made);
  shared_fake_quantize(spec, as_const(all), all, 1);
  shared(rows, padded, [&](std::int64_t first, std::int64_t last) {
    inverse_hadamard16(data + first * padded, data + first * padded, last - first, padded, signs);
  });
  const at::Tensor cut = made.narrow(1, 0, cols);
  return axis == 1 ? cut : cut.t();
}

}  // namespace assay::quant
