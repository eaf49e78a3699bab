#include "quant/torch/exact.h"

#include <torch/types.h>

#include <map>
#include <vector>

#include "quant/packed.h"
#include "quant/product/probe.h"
#include "quant/torch/device.h"
#include "quant/torch/matrix.h"

namespace assay::quant {
namespace {

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {  // [M, K] and [N, K], bfloat16
  if (a.is_cuda()) return at::mm(a, b.t(), at::kFloat);
  return at::mm(a.to(at::kFloat), b.to(at::kFloat).t());
}

ExactOperand on_cpu(const at::Tensor& x, const Spec& spec, int axis) {
  const at::Tensor from = x.resolve_neg().contiguous();
  const Packed packed = pack(spec, *matrix_view(from), axis);
  const at::Tensor values = at::empty_like(from);
  dequantize_divided(spec.format, 1.0f, packed.codes.data(), packed.scales.data(), packed.rows, packed.cols, axis,
                     values.mutable_data_ptr<float>());
  std::vector<double> factors;
  for (const float max : packed.maxima) factors.push_back(tensor_factor(spec, max));
  if (factors.empty()) factors.push_back(1);
  const at::Tensor factor = at::tensor(at::ArrayRef<double>(factors), at::kDouble);
  return {values.to(at::kBFloat16), spec.scope == Scope::row ? factor.unsqueeze(1) : factor};
}

}  // namespace

ExactOperand exact_operand(const at::Tensor& x, const Spec& spec, int axis) {
  const std::string_view wrong = objection(spec, axis);
  TORCH_CHECK(wrong.empty(), "quantize: ", wrong);
  TORCH_CHECK(x.dim() == 2 && x.scalar_type() == at::kFloat, "an exact product's operand is a float32 matrix");
  const at::NoGradGuard no_grad;
  if (x.is_cpu()) return on_cpu(x, spec, axis);
  TORCH_CHECK(axis == 1 && !spec.tiles, "on a device an exact product's operand has blocks along rows");
  auto [elements, factors] = operand_on_device(x, spec);
  const at::Tensor factor = factors.to(at::kDouble);
  return {elements, spec.scope == Scope::row ? factor.unsqueeze(1) : factor};
}

at::Tensor exact_product(const ExactOperand& x, const ExactOperand& w) {
  const at::NoGradGuard no_grad;
  at::Tensor y = matrix_product(x.elements, w.elements);
  return y.mul_(x.factor * w.factor);  // in double, rounded once
}

double exact_product_error(const at::Device& device) {
  static std::map<at::DeviceType, double> measured;
  const auto [entry, fresh] = measured.try_emplace(device.type(), 0);
  if (!fresh) return entry->second;
  const at::NoGradGuard no_grad;
  return entry->second = product::known_sums([&](const float* a, const float* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y) {
    const auto given = [&](const float* from, std::int64_t rows, std::int64_t cols) {
      return at::from_blob(const_cast<float*>(from), {rows, cols}, at::kFloat).to(at::kBFloat16);
    };
    const at::Tensor product = matrix_product(given(a, m, k).to(device), given(b, k, n).t().contiguous().to(device));
    at::from_blob(y, {m, n}, at::kFloat).copy_(product);
  });
}

}  // namespace assay::quant
