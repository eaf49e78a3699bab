// The decoder's operations made of LibTorch's, which run on any device: what the kernels' path (ops.h, attention.h, head.h)
// computes where its tensors are not on the CPU. Autograd differentiates them. The same mathematics, in another order of
// sums: tests/trainer/model/aten_test.cpp holds the two against each other, norm by norm.
//
// ops.h, attention.h and head.h choose, each in the first line of its function, by by_kernels().
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>

#include "quant/torch/exact.h"
#include "trainer/model/attention.h"
#include "trainer/model/head.h"
#include "trainer/model/ops.h"

namespace assay::train {

// Whether the hand-written kernels compute on x: it is on the CPU, and no AtenScope asks for LibTorch's operations.
bool by_kernels(const at::Tensor& x);

// While one of these that is `on` lives, by_kernels() is false on this thread.
class AtenScope {
 public:
  explicit AtenScope(bool on);
  ~AtenScope();
  AtenScope(const AtenScope&) = delete;
  AtenScope& operator=(const AtenScope&) = delete;

 private:
  bool before_;
};

// In deterministic mode LibTorch takes a longer way on CUDA for what could have several results, also where the use at hand has
// one: it sorts the places of a copy to places that are all different, and sums rows by blocks in order. While one of these
// lives it takes the short way.
class OneResult {
 public:
  OneResult();
  ~OneResult();
  OneResult(const OneResult&) = delete;
  OneResult& operator=(const OneResult&) = delete;

 private:
  bool before_, warn_;
};

namespace aten {

// As the functions of the same names.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps);
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor bf16_rounded(const at::Tensor& x);
at::Tensor linear(const at::Tensor& x, Matrix& weight, const at::Tensor& bias, LoraPair* lora,
                  const std::optional<RoundedGradient>& rounded);
at::Tensor low_rank(const at::Tensor& x, LoraPair& lora);

// linear() of a quantized x and weight, by their operands: the base product on the device's bf16 units (quant/torch/exact.h).
// Backwards it is linear(): dx of the quantized weight, in fp32.
at::Tensor exact_linear(const at::Tensor& x, const quant::ExactOperand& x_operand, Matrix& weight, const quant::ExactOperand& w_operand,
                        const at::Tensor& bias, LoraPair* lora, const std::optional<RoundedGradient>& rounded);

// x [M, heads * E]; cosine and sine [M, 1, E / 2], of each token's position.
at::Tensor rotate(const at::Tensor& x, std::int64_t heads, const at::Tensor& cosine, const at::Tensor& sine);

// Rows of a prompt are one batch entry: the product with the prompt's keys is one for all of them, that with their own keys
// is padded to the longest. Groups are taken a few at a time, and each few's scores are computed again in the backward, so
// that no layer keeps them.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& prompt_k,
                     const at::Tensor& prompt_v, const Layout& layout, const Heads& heads);

// Logits exist for a few rows at a time, and again in the backward.
Scores score_tokens(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double temperature,
                    bool entropy_gradient);

// Rows of logits that exist at once: 4 MB of them on the CPU, 256 MB on a device.
std::int64_t rows_at_once(const at::Tensor& hidden, std::int64_t vocabulary);

}  // namespace aten
}  // namespace assay::train
