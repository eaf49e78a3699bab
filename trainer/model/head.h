// Log-probs of chosen tokens without keeping logits.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/matrix.h"

namespace assay::train {

struct Scores {
  at::Tensor logprobs;  // [M], with gradient to the hidden states, and to the head where it is trainable
  at::Tensor entropy;   // [M], of the same distribution; detached unless entropy_gradient
};

// hidden [M, D], head [V, D], targets int64 [M]; the distribution is softmax(hidden · head^T / temperature).
// Logits exist for a few rows at a time. With a frozen head and a detached entropy, what the backward needs is
// d logprob / d hidden, [M, D], and it is computed here, while the probabilities are at hand:
// (head[target] - sum_v p_v head[v]) / temperature. Otherwise the backward computes the probabilities again; with
// z = logits / temperature, H the entropy:  d logprob / d z_v = [v = target] - p_v,  d H / d z_v = -p_v (log p_v + H).
// one_form: the product of that gradient reads a frozen head as it lies instead of a packed copy: slower, and D * V floats
// less.
Scores score_tokens(const at::Tensor& hidden, Matrix& head, const at::Tensor& targets, double temperature,
                    bool entropy_gradient = false, bool one_form = false);

}  // namespace assay::train
