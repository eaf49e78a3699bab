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
  explicit Matrix(at::Tensor value) : value_(std::move(value)), out_(value_.size(0)), in_(value_.size(1)) {}
  // A quantized copy whose gradient goes to `master` unchanged (straight-through estimator).
  Matrix(at::Tensor value, at::Tensor master) : Matrix(std::move(value)) { master_ = std::move(master); }

  const at::Tensor& value() const { return value_; }  // [out, in], float32, contiguous
  const at::Tensor& leaf() const { return master_.defined() ? master_ : value_; }  // what a gradient belongs to
  bool defined() const { return value_.defined() || lean_; }
  std::int64_t out() const { return out_; }
  std::int64_t in() const { return in_; }

  // B = W^T of y = x·W^T, and B = W of dx = dy·W. Made at the first use, and again after an in-place change that
  // LibTorch's version counter shows. A caller that keeps the pointer keeps those values.
  std::shared_ptr<const kernels::Packed> forward_pack();
  std::shared_ptr<const kernels::Packed> backward_pack();
  // For a weight that never changes: one form of three. Packs it for forward products and lets go of value(), which is
  // undefined from here on; backward_pack() makes its form anew at each call and keeps nothing. The same numbers, at one
  // more pass over the weight in each backward.
  void keep_forward_only();
  bool lean() const { return lean_; }

  // The same weight on another device, without packed forms. Not of a lean one.
  Matrix on(const at::Device& device) const;

  // Forgets the packed forms: for weights that an optimizer writes to, called where a forward pass begins.
  void refresh();

 private:
  at::Tensor value_, master_;
  std::shared_ptr<const kernels::Packed> forward_, backward_;
  std::int64_t out_ = 0, in_ = 0;
  bool lean_ = false;
  std::uint32_t forward_version_ = 0, backward_version_ = 0;
};

// What a backward pass needs of a frozen or an adapter's weight, as it was when the graph was made. Of a lean matrix
// only the forward form is held, and the other made when it is needed.
class BackwardForm {
 public:
  BackwardForm() = default;
  explicit BackwardForm(Matrix& matrix);
  explicit operator bool() const { return ready_ || forward_; }
  std::shared_ptr<const kernels::Packed> get() const;

 private:
  std::shared_ptr<const kernels::Packed> ready_, forward_;
};

}  // namespace assay::train
