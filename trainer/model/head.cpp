#include "trainer/model/head.h"

#include <algorithm>

#include "trainer/model/graph.h"
#include "trainer/model/ops.h"

namespace assay::train {

namespace {

struct ScoreNode : torch::autograd::Node {
  at::Tensor slope;  // [M, D]
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    return {slope * grads[0].unsqueeze(1)};
  }
  std::string name() const override { return "ScoreTokens"; }
  void release_variables() override { slope = at::Tensor(); }
};

}  // namespace

Scores score_tokens(const at::Tensor& hidden, Matrix& head, const at::Tensor& targets, double temperature,
                    bool one_form) {
  TORCH_CHECK(!head.value().requires_grad(), "log-probs of chosen tokens need a frozen head");
  TORCH_CHECK(targets.scalar_type() == at::kLong && targets.is_contiguous());
  const auto& kernel = kernels::active();
  const std::int64_t m = hidden.size(0), d = hidden.size(1), vocabulary = head.out();
  const bool graph = any_wants_graph(hidden);
  Scores scores{at::empty({m}, hidden.options()), at::empty({m}, hidden.options())};
  at::Tensor slope = graph ? at::empty({m, d}, hidden.options()) : at::Tensor();
  const auto forward = head.forward_pack();
  const auto backward = graph && !one_form ? head.backward_pack() : nullptr;
  const float *ph = data(hidden), *pw = data(head.value());
  const std::int64_t* pt = targets.const_data_ptr<std::int64_t>();
  float *pl = mutable_data(scores.logprobs), *pe = mutable_data(scores.entropy),
        *ps = graph ? mutable_data(slope) : nullptr;
  const auto inverse = static_cast<float>(1.0 / temperature);
  // About 4 MB of logits at once, but rows enough for the products to be worth their reading of the head.
  const std::int64_t chunk = std::clamp<std::int64_t>((1 << 20) / vocabulary, 96, 960);
  over_rows((m + chunk - 1) / chunk, 1, [&](std::int64_t from, std::int64_t to) {
    std::vector<float> logits(static_cast<std::size_t>(std::min(chunk, m) * vocabulary));
    for (std::int64_t r0 = from * chunk; r0 < std::min(m, to * chunk); r0 += chunk) {
      const std::int64_t rows = std::min(chunk, m - r0);
      kernel.gemm_packed(rows, ph + r0 * d, d, 1, *forward, logits.data(), vocabulary, 1.f, nullptr, false);
      for (std::int64_t i = 0; i < rows; ++i) {
        float* z = logits.data() + i * vocabulary;
        const float chosen = z[pt[r0 + i]] * inverse;
        float largest = 0, log_sum = 0;
        kernel.distribution(vocabulary, z, inverse, &largest, &log_sum, pe + r0 + i);
        pl[r0 + i] = (chosen - largest) - log_sum;
      }
      if (!graph) continue;
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* w = pw + pt[r0 + i] * d;
        for (std::int64_t j = 0; j < d; ++j) ps[(r0 + i) * d + j] = w[j] * inverse;
      }
      if (backward)
        kernel.gemm_packed(rows, logits.data(), vocabulary, 1, *backward, ps + r0 * d, d, -inverse, nullptr, true);
      else
        kernel.gemm(rows, d, vocabulary, logits.data(), vocabulary, 1, pw, d, ps + r0 * d, d, -inverse, true);
    }
  });
  if (graph) {
    auto node = new_node<ScoreNode>();
    node->slope = slope;
    hang(scores.logprobs, node, hidden);
  }
  return scores;
}

}  // namespace assay::train
