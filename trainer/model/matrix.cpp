#include "trainer/model/matrix.h"

#include "quant/torch/parallel.h"
#include "trainer/model/graph.h"

namespace assay::train {

using kernels::Packed;

namespace {

// The packed form of B = W from that of B = W^T: whole 16 x 16 blocks, turned.
std::shared_ptr<const Packed> turned(const Packed& from) {
  constexpr auto panel = kernels::panel;
  auto to = std::make_shared<Packed>();
  to->k = from.n;
  to->n = from.k;
  const std::int64_t panels = kernels::round_up(to->n, panel) / panel;
  to->data.resize(static_cast<std::size_t>(panels * panel * to->k));
  const float* source = from.data.data();
  float* out = to->data.data();
  over_rows(panels, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)      // columns 16 p .. of the new form: rows k of the old one
      for (std::int64_t n = 0; n < to->k; ++n)
        for (std::int64_t j = 0; j < panel; ++j) {
          const std::int64_t k = p * panel + j;
          out[(p * to->k + n) * panel + j] =
              k < from.k ? source[((n / panel) * from.k + k) * panel + n % panel] : 0.f;
        }
  });
  return to;
}

}  // namespace

void Matrix::keep_forward_only() {
  if (lean_) return;
  TORCH_INTERNAL_ASSERT(!value_.requires_grad());
  forward_pack();
  backward_.reset();
  value_ = at::Tensor();
  lean_ = true;
}

Matrix Matrix::on(const at::Device& device) const {
  if (!value_.defined()) return {};
  const auto moved = [&](const at::Tensor& tensor) { return tensor.detach().to(device).requires_grad_(tensor.requires_grad()); };
  return master_.defined() ? Matrix(moved(value_), moved(master_)) : Matrix(moved(value_));
}

BackwardForm::BackwardForm(Matrix& matrix) {
  (matrix.lean() ? forward_ : ready_) = matrix.lean() ? matrix.forward_pack() : matrix.backward_pack();
}

std::shared_ptr<const Packed> BackwardForm::get() const { return ready_ ? ready_ : turned(*forward_); }

std::shared_ptr<const Packed> Matrix::forward_pack() {
  if (lean_) return forward_;
  if (!forward_ || forward_version_ != value_._version()) {
    auto packed = std::make_shared<Packed>();
    pack(*packed, data(value_), in(), out(), 1, in());
    forward_version_ = static_cast<std::uint32_t>(value_._version());
    forward_ = std::move(packed);
  }
  return forward_;
}

std::shared_ptr<const Packed> Matrix::backward_pack() {
  if (lean_) return turned(*forward_);
  if (!backward_ || backward_version_ != value_._version()) {
    auto packed = std::make_shared<Packed>();
    pack(*packed, data(value_), out(), in(), in(), 1);
    backward_version_ = static_cast<std::uint32_t>(value_._version());
    backward_ = std::move(packed);
  }
  return backward_;
}

void Matrix::refresh() {
  if (lean_) return;
  forward_.reset();
  backward_.reset();
}

}  // namespace assay::train
