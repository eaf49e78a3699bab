// The decoder's differentiable operations on packed rows. M tokens, D hidden, E head size.
//
// Each has a hand-written backward (tests/trainer/model/ops_test.cpp checks them against finite differences); without a
// graph they cost one pass of the kernel. All tensors float32, contiguous, on the CPU. Elsewhere, and where a test asks for
// it, the same functions are made of LibTorch's operations (aten.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "quant/torch/gradient.h"
#include "quant/torch/parallel.h"
#include "trainer/model/coded.h"
#include "trainer/model/decoder.h"
#include "trainer/model/live_rows.h"
#include "trainer/model/matrix.h"
#include "trainer/model/merged.h"

namespace assay::train {

// x [M, D], w [D].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps);

// silu(gate) * up, any shape.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

// Cosines and sines of position × frequency, grown as positions come up. As transformers computes them: frequencies
// and angles in float32.
class Rope {
 public:
  Rope() = default;
  Rope(std::int64_t head_size, double theta, RopeScaling scaling)
      : head_size_(head_size), theta_(theta), scaling_(std::move(scaling)) {}
  void cover(std::int64_t positions);
  void move_to(const at::Device& device) {
    device_ = device;
    cosine_ = sine_ = at::Tensor();
  }
  const float* cosine() const { return cosine_.const_data_ptr<float>(); }
  const float* sine() const { return sine_.const_data_ptr<float>(); }
  const at::Tensor& cosine_tensor() const { return cosine_; }
  const at::Tensor& sine_tensor() const { return sine_; }

 private:
  std::int64_t head_size_ = 0;
  double theta_ = 0;
  RopeScaling scaling_;
  at::Device device_ = at::kCPU;
  at::Tensor cosine_, sine_;  // [positions, E / 2]
};

// x [M, heads * E], rotated as token m's position asks.
at::Tensor rotate(const at::Tensor& x, std::int64_t heads, const Rope& rope,
                  const std::shared_ptr<const std::vector<std::int32_t>>& positions);

// The positions of packed tokens, in the form that the path at hand reads.
struct Positions {
  std::shared_ptr<const std::vector<std::int32_t>> host;  // the kernels'
  at::Tensor cosine, sine;                                // aten.h's, [M, 1, E / 2]
};
at::Tensor rotate(const at::Tensor& x, std::int64_t heads, const Rope& rope, const Positions& positions);

// Low-rank addition scale · B(A(x)): a [r, in], b [out, r].
struct LoraPair {
  Matrix a, b;
  float scale = 1;
  Merged merged = {};
  std::optional<bool> nothing = {};  // what adds_nothing() found in this pass

  // Whether B is 0, as it is before the first update and stays where no gradient reaches it.
  bool adds_nothing() {
    if (!nothing) nothing = all_zero(b.value().const_data_ptr<float>(), b.value().numel());
    return *nothing;
  }
  // For what an optimizer may have written to.
  void refresh() {
    a.refresh();
    b.refresh();
    merged.refresh();
    nothing.reset();
  }
};

// x with each value rounded to the nearest bfloat16, ties to even, kept as float32; its gradient is rounded the same way,
// as that of a bfloat16 tensor is.
at::Tensor bf16_rounded(const at::Tensor& x);

// The gradient of the output is quantized before the weight's two products take it; not for the low-rank part's.
struct RoundedGradient {
  quant::GradientSpec spec;
  std::uint64_t seed = 0;
};

// What linear() multiplies instead of x and W where both are given coded. The gradients are those of x and W themselves.
struct Coded {
  const CodedRows* x = nullptr;
  const CodedWeight* weight = nullptr;
};

// x·W^T + bias, plus the low-rank part where lora is given: by one product where Merged::pays(), which is never asked for together
// with `coded`. bias may be undefined.
at::Tensor linear(const at::Tensor& x, Matrix& weight, const at::Tensor& bias, LoraPair* lora,
                  const std::optional<RoundedGradient>& rounded = std::nullopt, const Coded& coded = {});
// The low-rank part alone.
at::Tensor low_rank(const at::Tensor& x, LoraPair& lora);

}  // namespace assay::train
