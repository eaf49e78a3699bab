#include "trainer/model/product.h"

#include <algorithm>

#include "quant/torch/parallel.h"
#include "trainer/model/graph.h"

namespace assay::train {

using kernels::active;
using kernels::Packed;
using kernels::panel;

namespace {
constexpr std::int64_t row_grain = 96;
}

void by_rows_or_panels(std::int64_t m, std::int64_t k, std::int64_t n, const ProductPiece& f) {
  if (m >= 2 * row_grain) {
    over_rows(m, row_grain, [&](std::int64_t from, std::int64_t to) { f(from, to, 0, n); });
    return;
  }
  // 1/8 of a millisecond's work at least.
  const std::int64_t panels = (n + panel - 1) / panel, grain = std::max<std::int64_t>(1, (1 << 21) / std::max<std::int64_t>(1, m * k * panel));
  over_rows(panels, grain, [&](std::int64_t from, std::int64_t to) { f(0, m, from * panel, std::min(n, to * panel)); });
}

void product(const at::Tensor& a, const Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate,
             LiveRows::Piece rows) {
  const std::int64_t lda = a.size(1), ldc = c.size(1);
  const float *pa = data(a) + rows.begin * lda, *pb = bias.defined() ? data(bias) : nullptr;
  float* pc = mutable_data(c) + rows.begin * ldc;
  by_rows_or_panels(rows.end - rows.begin, b.k, b.n, [&](std::int64_t first, std::int64_t last, std::int64_t n0, std::int64_t n1) {
    active().gemm_packed(last - first, pa + first * lda, lda, 1, b, n0, n1, pc + first * ldc, ldc, alpha, pb, accumulate);
  });
}

void product(const at::Tensor& a, const Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate) {
  product(a, b, c, alpha, bias, accumulate, {0, a.size(0)});
}

}  // namespace assay::train
