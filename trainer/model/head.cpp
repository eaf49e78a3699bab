#include "trainer/model/head.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "trainer/model/aten.h"
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

// About 4 MB of logits at once, but rows enough for the products to be worth their reading of the head.
std::int64_t chunk_rows(std::int64_t vocabulary) { return std::clamp<std::int64_t>((1 << 20) / vocabulary, 96, 960); }

// Inputs: hidden, head. Outputs: log-probs, entropy.
struct ScoreAgainNode : torch::autograd::Node {
  at::Tensor hidden, targets;
  std::shared_ptr<const kernels::Packed> forward, backward;
  float inverse = 1;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    const auto& kernel = kernels::active();
    const std::int64_t m = hidden.size(0), d = hidden.size(1), vocabulary = forward->n;
    const at::Tensor none = at::zeros({m}, hidden.options());
    const at::Tensor dlogprob = grads[0].defined() ? grads[0].contiguous() : none;
    const at::Tensor dentropy = grads[1].defined() ? grads[1].contiguous() : none;
    at::Tensor dhidden = at::empty({m, d}, hidden.options());
    at::Tensor dhead = task_should_compute_output(1) ? at::zeros({vocabulary, d}, hidden.options()) : at::Tensor();
    const float *ph = data(hidden), *pl = data(dlogprob), *pe = data(dentropy);
    const std::int64_t* pt = targets.const_data_ptr<std::int64_t>();
    float *to = mutable_data(dhidden), *to_head = dhead.defined() ? mutable_data(dhead) : nullptr;
    const std::int64_t chunk = chunk_rows(vocabulary);
    std::vector<float> logits(static_cast<std::size_t>(std::min(chunk, m) * vocabulary));
    for (std::int64_t r0 = 0; r0 < m; r0 += chunk) {  // one after the other: the head's gradient adds up in order
      const std::int64_t rows = std::min(chunk, m - r0);
      over_rows(rows, 96, [&](std::int64_t from, std::int64_t end) {
        float* z = logits.data() + from * vocabulary;
        kernel.gemm_packed(end - from, ph + (r0 + from) * d, d, 1, *forward, 0, vocabulary, z, vocabulary, 1.f, nullptr, false);
        for (std::int64_t r = r0 + from; r < r0 + end; ++r, z += vocabulary) {
          float largest = 0, log_sum = 0, entropy = 0;
          kernel.distribution(vocabulary, z, inverse, &largest, &log_sum, &entropy);
          for (std::int64_t v = 0; v < vocabulary; ++v) {
            const float p = z[v], logprob = p > 0 ? std::log(p) : 0.f;
            z[v] = -p * (pl[r] + pe[r] * (logprob + entropy)) * inverse;
          }
          z[pt[r]] += pl[r] * inverse;
        }
        kernel.gemm_packed(end - from, logits.data() + from * vocabulary, vocabulary, 1, *backward, 0, d,
                           to + (r0 + from) * d, d, 1.f, nullptr, false);
      });
      if (!to_head) continue;
      over_rows(vocabulary, 256, [&](std::int64_t from, std::int64_t end) {
        kernel.gemm(end - from, d, rows, logits.data() + from, 1, vocabulary, ph + r0 * d, d, to_head + from * d, d, 1.f,
                    true);
      });
    }
    return {dhidden, dhead};
  }
  std::string name() const override { return "ScoreTokensAgain"; }
  void release_variables() override {
    hidden = targets = at::Tensor();
    forward = backward = nullptr;
  }
};

}  // namespace

Scores score_tokens(const at::Tensor& hidden, Matrix& head, const at::Tensor& targets, double temperature,
                    bool entropy_gradient, bool one_form) {
  TORCH_CHECK(targets.scalar_type() == at::kLong && targets.is_contiguous());
  if (!by_kernels(hidden)) return aten::score_tokens(hidden, head.value(), targets, temperature, entropy_gradient);
  const bool again = any_wants_graph(head.value()) || (entropy_gradient && any_wants_graph(hidden));
  const auto& kernel = kernels::active();
  const std::int64_t m = hidden.size(0), d = hidden.size(1), vocabulary = head.out();
  const bool graph = !again && any_wants_graph(hidden);
  Scores scores{at::empty({m}, hidden.options()), at::empty({m}, hidden.options())};
  at::Tensor slope = graph ? at::empty({m, d}, hidden.options()) : at::Tensor();
  const auto forward = head.forward_pack();
  const auto backward = graph && !one_form ? head.backward_pack() : nullptr;
  const float *ph = data(hidden), *pw = data(head.value());
  const std::int64_t* pt = targets.const_data_ptr<std::int64_t>();
  float *pl = mutable_data(scores.logprobs), *pe = mutable_data(scores.entropy),
        *ps = graph ? mutable_data(slope) : nullptr;
  const auto inverse = static_cast<float>(1.0 / temperature);
  // As many chunks for each thread, if they are not too small to be worth the head.
  const std::int64_t most = chunk_rows(vocabulary), threads = std::clamp<std::int64_t>(m / 32, 1, at::get_num_threads());
  const std::int64_t chunks = std::max<std::int64_t>(1, kernels::round_up((m + most - 1) / most, threads));
  const std::int64_t chunk = std::max<std::int64_t>(1, (m + chunks - 1) / chunks);
  over_rows((m + chunk - 1) / chunk, 1, [&](std::int64_t from, std::int64_t to) {
    std::vector<float> logits(static_cast<std::size_t>(std::min(chunk, m) * vocabulary));
    for (std::int64_t r0 = from * chunk; r0 < std::min(m, to * chunk); r0 += chunk) {
      const std::int64_t rows = std::min(chunk, m - r0);
      kernel.gemm_packed(rows, ph + r0 * d, d, 1, *forward, 0, vocabulary, logits.data(), vocabulary, 1.f, nullptr, false);
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
        kernel.gemm_packed(rows, logits.data(), vocabulary, 1, *backward, 0, d, ps + r0 * d, d, -inverse, nullptr, true);
      else
        kernel.gemm(rows, d, vocabulary, logits.data(), vocabulary, 1, pw, d, ps + r0 * d, d, -inverse, true);
    }
  });
  if (graph) {
    auto node = new_node<ScoreNode>();
    node->slope = slope;
    hang(scores.logprobs, node, hidden);
  }
  if (again) {
    auto node = new_node<ScoreAgainNode>();
    node->hidden = hidden.detach();
    node->targets = targets;
    node->forward = forward;
    node->backward = head.backward_pack();
    node->inverse = inverse;
    hang(scores.logprobs, node, hidden, head.value());
    if (entropy_gradient)
      torch::autograd::set_history(scores.entropy, node);
    else
      node->add_input_metadata(torch::autograd::Node::undefined_input());
  }
  return scores;
}

}  // namespace assay::train
