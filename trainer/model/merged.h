// A frozen weight and its adapter as one matrix: W + scale·B·A.
//
// x·(W + scale·B·A)^T is x·W^T + scale·(x·A^T)·B^T in one product instead of three, which in narrow layers is a fifth to a
// third less work; the two differ by the rounding of fp32 sums. The sum costs as much as r more tokens would.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "trainer/model/matrix.h"

namespace assay::train {

class Merged {
 public:
  // Where A and B have an eighth of W's elements or more. A question of shape alone: the way a layer is computed depends on
  // neither the batch, the memory mode nor the phase, and the sampler and the trainer share it.
  static bool pays(const Matrix& weight, const Matrix& a, const Matrix& b) {
    return 8 * (a.out() * a.in() + b.out() * b.in()) >= weight.out() * weight.in();
  }

  // Made anew where the weight is another one, or A or B hold other numbers than at the last call; they are compared at the
  // first call after refresh(). A lean weight's is lean.
  Matrix& of(Matrix& weight, const Matrix& a, const Matrix& b, float scale);
  void refresh() { compared_ = false; }

 private:
  Matrix sum_;
  std::shared_ptr<const kernels::Packed> weight_;
  at::Tensor a_, b_;
  bool compared_ = false;
};

}  // namespace assay::train
