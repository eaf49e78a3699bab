#include "trainer/model/merged.h"

#include <ATen/ATen.h>

#include <cstring>

#include "trainer/model/graph.h"

namespace assay::train {

namespace {

bool same_bits(const at::Tensor& x, const at::Tensor& y) {
  return x.defined() && x.sizes() == y.sizes() && std::memcmp(data(x), data(y), x.nbytes()) == 0;
}

}  // namespace

Matrix& Merged::of(Matrix& weight, const Matrix& a, const Matrix& b, float scale) {
  auto packed = weight.forward_pack();
  const bool same = packed == weight_;
  if (same && compared_) return sum_;
  compared_ = true;
  if (same && same_bits(a_, a.value()) && same_bits(b_, b.value())) return sum_;
  const at::NoGradGuard no_grad;
  weight_ = std::move(packed);
  a_ = a.value().detach().clone();
  b_ = b.value().detach().clone();
  const std::int64_t out = weight.out(), in = weight.in(), rank = a.out();
  at::Tensor sum = at::empty({out, in}, a_.options());
  float* to = mutable_data(sum);
  unpack(*weight_, to, 1, in);
  kernels::active().gemm(out, in, rank, data(b_), rank, 1, data(a_), in, to, in, scale, true);
  sum_ = Matrix(sum);
  if (weight.lean()) sum_.keep_forward_only();
  return sum_;
}

}  // namespace assay::train
