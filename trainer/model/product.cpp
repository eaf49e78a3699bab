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
  // Some 20 µs at least; up to eight rows take as long as the panels take to be read.
  const std::int64_t panels = (n + panel - 1) / panel;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 21) / std::max<std::int64_t>(1, std::max<std::int64_t>(m, 8) * k * panel));
  over_rows(panels, grain, [&](std::int64_t from, std::int64_t to) { f(0, m, from * panel, std::min(n, to * panel)); });
}

void product(const at::Tensor& a, const Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate,
             const std::vector<RowPiece>& rows) {
  const std::int64_t lda = a.size(1), ldc = c.size(1);
  const float *const pa = data(a), *const pb = bias.defined() ? data(bias) : nullptr;
  float* const pc = mutable_data(c);
  const auto piece = [&](std::int64_t first, std::int64_t last, std::int64_t n0, std::int64_t n1) {
    active().gemm_packed(last - first, pa + first * lda, lda, 1, b, n0, n1, pc + first * ldc, ldc, alpha, pb, accumulate);
  };
  if (count_rows(rows) >= 2 * row_grain) {
    over_pieces(rows, row_grain, [&](RowPiece some, std::int64_t) { piece(some.begin, some.end, 0, b.n); });
    return;
  }
  for (const RowPiece& few : rows)
    by_rows_or_panels(few.end - few.begin, b.k, b.n, [&](std::int64_t first, std::int64_t last, std::int64_t n0, std::int64_t n1) {
      piece(few.begin + first, few.begin + last, n0, n1);
    });
}

void product(const at::Tensor& a, const Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate) {
  product(a, b, c, alpha, bias, accumulate, {{0, a.size(0)}});
}

at::Tensor outer_sum(const at::Tensor& u, const at::Tensor& x, float alpha, const LiveRows& live) {
  const std::int64_t p = u.size(1), q = x.size(1);
  const std::vector<std::int64_t> starts = live.starts(kernels::chunk);
  const at::Tensor us = live.gather(u), xs = live.gather(x);
  at::Tensor result = at::zeros({p, q}, x.options());
  const float *const pu = data(us), *const px = data(xs);
  float* const to = mutable_data(result);
  // Panels of columns one after the other, each cut into a few rows: an adapter's gradient has one panel or two.
  constexpr std::int64_t rows = 8;
  const std::int64_t blocks = (p + rows - 1) / rows, panels = (q + panel - 1) / panel;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 18) / std::max<std::int64_t>(1, us.size(0) * rows * panel));
  over_rows(panels * blocks, grain, [&](std::int64_t from, std::int64_t end) {
    for (std::int64_t at = from, next; at < end; at = next) {
      next = std::min(end, (at / blocks + 1) * blocks);
      const std::int64_t n0 = at / blocks * panel, n1 = std::min(q, n0 + panel);
      const std::int64_t m0 = at % blocks * rows, m1 = std::min(p, m0 + (next - at) * rows);
      for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
        const std::int64_t first = starts[i], count = starts[i + 1] - first;
        if (count > 0)
          active().gemm(m1 - m0, n1 - n0, count, pu + first * p + m0, 1, p, px + first * q + n0, q, to + m0 * q + n0, q, alpha, true);
      }
    }
  });
  return result;
}

}  // namespace assay::train
