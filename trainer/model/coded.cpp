#include "trainer/model/coded.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#include "quant/packed.h"
#include "quant/torch/matrix.h"
#include "quant/torch/parallel.h"
#include "trainer/model/graph.h"
#include "trainer/model/kernels/kernels.h"
#include "trainer/model/product.h"

namespace assay::train {

using kernels::active;

namespace {

constexpr std::int64_t coded_grain = 1 << 15;  // elements that are worth a second thread

float factor_of(const at::Tensor& x, const quant::Spec& spec) {
  return quant::tensor_factor(spec, quant::needs_tensor_max(spec) ? quant::shared_finite_max(*quant::matrix_view(x)) : spec.static_max);
}

}  // namespace

std::shared_ptr<const CodedWeight> code_weight(const at::Tensor& weight, const at::Tensor& quantized, const quant::Spec& spec) {
  const std::int64_t out = quantized.size(0), in = quantized.size(1), words = quant::gemm::words(in);
  auto coded = std::make_shared<CodedWeight>();
  coded->factor = factor_of(weight, spec);
  std::vector<std::uint32_t> elements(static_cast<std::size_t>(out * words));
  std::atomic<bool> all = true;
  over_rows(out, std::max<std::int64_t>(1, coded_grain / std::max<std::int64_t>(1, in)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      if (!active().code_row(in, data(quantized) + i * in, coded->factor, elements.data() + i * words)) all = false;
  });
  if (!all) return nullptr;
  pack(coded->pairs, elements.data(), in, out);
  return coded;
}

std::shared_ptr<const CodedRows> code_rows(const at::Tensor& x, const at::Tensor& quantized, const quant::Spec& spec) {
  const std::int64_t m = quantized.size(0), in = quantized.size(1);
  auto coded = std::make_shared<CodedRows>();
  coded->rows = m;
  coded->words = quant::gemm::words(in);
  coded->elements = std::make_unique_for_overwrite<std::uint32_t[]>(static_cast<std::size_t>(m * coded->words));
  const bool by_row = quant::has_tensor_scale(spec.mode) && spec.scope == quant::Scope::row;
  coded->factor.assign(by_row ? static_cast<std::size_t>(m) : 1, by_row ? 0.f : factor_of(x, spec));
  std::mutex mine;
  over_rows(m, std::max<std::int64_t>(1, coded_grain / std::max<std::int64_t>(1, in)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float& factor = coded->factor[by_row ? static_cast<std::size_t>(i) : 0];
      if (by_row) factor = quant::tensor_factor(spec, quant::finite_max(data(x) + i * in, in));
      if (active().code_row(in, data(quantized) + i * in, factor, coded->elements.get() + i * coded->words)) continue;
      const std::lock_guard lock(mine);
      coded->plain.push_back({i, i + 1});
    }
  });
  std::sort(coded->plain.begin(), coded->plain.end(), [](RowPiece left, RowPiece right) { return left.begin < right.begin; });
  return coded;
}

void coded_product(const at::Tensor& x, const CodedRows& rows, Matrix& weight, const CodedWeight& coded, const at::Tensor& bias, at::Tensor& y) {
  std::vector<float> factor = rows.factor;
  for (float& f : factor) f *= coded.factor;
  const std::int64_t step = factor.size() > 1 ? 1 : 0, n = coded.pairs.n;
  const float* const pb = bias.defined() ? data(bias) : nullptr;
  float* const to = mutable_data(y);
  by_rows_or_panels(rows.rows, coded.pairs.k, n, [&](std::int64_t first, std::int64_t last, std::int64_t n0, std::int64_t n1) {
    active().pairs(last - first, rows.elements.get() + first * rows.words, rows.words, coded.pairs, n0, n1, to + first * n, n,
                   factor.data() + first * step, step, pb);
  });
  if (!rows.plain.empty()) product(x, *weight.forward_pack(), y, 1.f, bias, false, rows.plain);
}

}  // namespace assay::train
