// A weight [out, in] together with the packed forms that its products read.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "trainer/model/kernels/kernels.h"

namespace assay::train {

class Matrix {
 public:
  Matrix() = default;
  explicit Matrix(at::Tensor value) : value_(std::move(value)) {}

  const at::Tensor& value() const { return value_; }  // [out, in], float32, contiguous
  bool defined() const { return value_.defined(); }
  std::int64_t out() const { return value_.size(0); }
  std::int64_t in() const { return value_.size(1); }

  // B = W^T of y = x·W^T, and B = W of dx = dy·W. Made at the first use, and again after an in-place change that
  // LibTorch's version counter shows. A caller that keeps the pointer keeps those values.
  std::shared_ptr<const kernels::Packed> forward_pack();
  std::shared_ptr<const kernels::Packed> backward_pack();
  // Forgets the packed forms: for weights that an optimizer writes to, called where a forward pass begins.
  void refresh();

 private:
  at::Tensor value_;
  std::shared_ptr<const kernels::Packed> forward_, backward_;
  std::uint32_t forward_version_ = 0, backward_version_ = 0;
};

}  // namespace assay::train
