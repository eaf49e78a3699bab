#include "quant/torch/fake_quantize.h"

#include <torch/autograd.h>
#include <torch/types.h>

#include "quant/torch/device.h"
#include "quant/torch/matrix.h"

namespace assay::quant {

at::Tensor fake_quantize(const at::Tensor& x, const Spec& spec, int axis, ErrorStats* stats) {
  const std::string_view wrong = objection(spec, axis);
  TORCH_CHECK(wrong.empty(), "quantize: ", wrong);
  const at::NoGradGuard no_grad;
  if (!x.is_cpu()) {
    TORCH_CHECK(!stats, "quantize: error figures are of tensors on cpu");
    return fake_quantize_on_device(x, spec, axis);
  }
  const at::Tensor in = x.resolve_neg();
  const std::optional<ConstView> from = matrix_view(in);
  // What is no matrix is copied, and the copy quantized in place.
  const at::Tensor out =
      from ? at::empty(in.sizes(), in.options().memory_format(at::MemoryFormat::Contiguous)) : in.contiguous();
  const View to = mutable_matrix_view(out);
  if (stats) fake_quantize(spec, from.value_or(as_const(to)), to, axis, stats);  // its sums have one order
  else shared_fake_quantize(spec, from.value_or(as_const(to)), to, axis);
  return out;
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
