// Log-probs of chosen tokens without keeping logits.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/matrix.h"

namespace assay::train {

struct Scores {
  at::Tensor logprobs;  // [M], with gradient to the hidden states
  at::Tensor entropy;   // [M], of the same distribution, detached
};

// hidden [M, D], head [V, D] (frozen), targets int64 [M]; the distribution is softmax(hidden · head^T / temperature).
// Logits exist for a few rows at a time. What the backward needs is d logprob / d hidden, [M, D], and it is computed
// here, while the probabilities are at hand:  (head[target] - sum_v p_v head[v]) / temperature.
// one_form: that product reads the head as it lies instead of a packed copy: slower, and D * V floats less.
Scores score_tokens(const at::Tensor& hidden, Matrix& head, const at::Tensor& targets, double temperature,
                    bool one_form = false);

}  // namespace assay::train
