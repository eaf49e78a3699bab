#include "at_linear.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

namespace assay::bench {

struct AtLinear::Tensors {
  at::Tensor x, w, y;
};

AtLinear::AtLinear(const float* x, const float* w, std::int64_t m, std::int64_t k, std::int64_t n, int threads) {
  at::set_num_threads(threads);
  const c10::InferenceMode inference;
  const auto copy = [](const float* from, std::int64_t rows, std::int64_t cols) {
    return at::from_blob(const_cast<float*>(from), {rows, cols}, at::kFloat).clone();
  };
  tensors_.reset(new Tensors{copy(x, m, k), copy(w, n, k), {}});
}

AtLinear::~AtLinear() = default;

void AtLinear::run() {
  const c10::InferenceMode inference;
  tensors_->y = at::linear(tensors_->x, tensors_->w);
}

}  // namespace assay::bench
