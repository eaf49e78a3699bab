// Products of tensors by the kernels, shared by LibTorch's threads. The bits do not depend on how.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "trainer/model/kernels/kernels.h"
#include "trainer/model/live_rows.h"

namespace assay::train {

// f(first row, last row, first column, last column) over pieces of a product [m, k] · [k, n]; columns begin at whole panels.
// A thread's rows are a block that stays in its cache while the panels pass. Too few for that, as in decoding, and each takes some
// of the panels instead.
using ProductPiece = std::function<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t)>;
void by_rows_or_panels(std::int64_t m, std::int64_t k, std::int64_t n, const ProductPiece& f);

// c [M, N] = (accumulate ? c : bias or 0) + alpha · a [M, K] · b.
void product(const at::Tensor& a, const kernels::Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate);
// These rows of it; the others stay as they are.
void product(const at::Tensor& a, const kernels::Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate,
             const std::vector<RowPiece>& rows);

// u^T·x: u [M, p], x [M, q] -> [p, q], summed over the rows that are live in u, in order.
at::Tensor outer_sum(const at::Tensor& u, const at::Tensor& x, float alpha, const LiveRows& live);

}  // namespace assay::train
