#include "quant/torch/device.h"

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/types.h>

#include "quant/cuda/loader.h"
#include "quant/fake_quantize.h"

namespace assay::quant {
namespace {

cuda::Device& kernels_for(const at::Tensor& x) {
  TORCH_CHECK(x.is_cuda(), "quantize: tensors on ", x.device(), " are not supported, only cpu and cuda");
  TORCH_CHECK(x.device().index() == 0, "quantize: tensors on ", x.device(), " are not supported, only on the first GPU");
  const cuda::Opened& opened = cuda::open_device();
  TORCH_CHECK(opened.device, "quantize: ", opened.missing);
  return *opened.device;
}

void* stream_of(const at::Tensor& x) {
  return c10::impl::VirtualGuardImpl(x.device().type()).getStream(x.device()).native_handle();
}

cuda::Matrix matrix_of(const at::Tensor& x) {
  cuda::Matrix matrix;
  switch (x.scalar_type()) {
    case at::kFloat: matrix.type = Type::fp32; break;
    case at::kBFloat16: matrix.type = Type::bf16; break;
    case at::kHalf: matrix.type = Type::fp16; break;
    default: TORCH_CHECK(false, "quantize: dtype ", x.scalar_type(), " is not supported, only float32, bfloat16 and float16");
  }
  matrix.cols = x.dim() == 0 ? 1 : x.size(-1);
  matrix.rows = matrix.cols == 0 ? 0 : x.numel() / matrix.cols;
  matrix.stride = matrix.cols;
  return matrix;
}

// Of a contiguous tensor, on the device; undefined where nothing asks for it.
at::Tensor maximum_of(cuda::Device& kernels, const at::Tensor& x, const Spec& spec) {
  if (!needs_tensor_max(spec)) return {};
  const at::Tensor max = at::empty({1}, x.options().dtype(at::kFloat));
  kernels.finite_max(matrix_of(x), x.const_data_ptr(), max.mutable_data_ptr<float>(), stream_of(x));
  return max;
}

}  // namespace

at::Tensor fake_quantize_on_device(const at::Tensor& x, const Spec& spec, int axis) {
  cuda::Device& kernels = kernels_for(x);
  const at::Tensor from = x.resolve_neg().contiguous(), to = at::empty_like(from);
  if (from.numel() == 0) return to;
  const at::Tensor max = maximum_of(kernels, from, spec);
  kernels.fake_quantize(spec, matrix_of(from), from.const_data_ptr(), to.mutable_data_ptr(), axis,
                        max.defined() ? max.const_data_ptr<float>() : nullptr, stream_of(from));
  return to;
}

std::pair<at::Tensor, at::Tensor> operand_on_device(const at::Tensor& x, const Spec& spec) {
  cuda::Device& kernels = kernels_for(x);
  const at::Tensor from = x.resolve_neg().contiguous(), to = at::empty_like(from, from.options().dtype(at::kBFloat16));
  const cuda::Matrix matrix = matrix_of(from);
  const at::Tensor factors = at::ones({spec.scope == Scope::row ? matrix.rows : 1}, from.options().dtype(at::kFloat));
  if (from.numel() == 0) return {to, factors};
  const at::Tensor max = maximum_of(kernels, from, spec);
  kernels.operand(spec, matrix, from.const_data_ptr(), to.mutable_data_ptr(), factors.mutable_data_ptr<float>(),
                  max.defined() ? max.const_data_ptr<float>() : nullptr, stream_of(from));
  return {to, factors};
}

at::Tensor hadamard_on_device(const at::Tensor& x, std::uint16_t signs, bool inverse) {
  cuda::Device& kernels = kernels_for(x);
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && x.scalar_type() == at::kFloat);
  const at::Tensor to = at::empty_like(x);
  if (x.numel() == 0) return to;
  kernels.hadamard(matrix_of(x), x.const_data_ptr(), to.mutable_data_ptr(), signs, inverse, stream_of(x));
  return to;
}

}  // namespace assay::quant
