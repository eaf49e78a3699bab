// Products of tensors by the kernels, shared by LibTorch's threads. The bits do not depend on how.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "trainer/model/kernels/kernels.h"
#include "trainer/model/live_rows.h"

namespace assay::train {

// f(first row, last row, first column, last column) over pieces of a product [m, k] · [k, n]; columns begin at whole panels.
// A thread's rows are a block that stays in its cache while the panels pass. Too few for that, as in decoding, and each takes some
// of the panels instead.
using ProductPiece = std::function<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t)>;
void by_rows_or_panels(std::int64_t m, std::int64_t k, std::int64_t n, const ProductPiece& f);

// Rows of c [M, N] = (accumulate ? c : bias or 0) + alpha · a [M, K] · b.
void product(const at::Tensor& a, const kernels::Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate,
             LiveRows::Piece rows);
// All rows.
void product(const at::Tensor& a, const kernels::Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias, bool accumulate);

}  // namespace assay::train
