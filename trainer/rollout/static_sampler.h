// Sampling on a decoder that computes by LibTorch's operations (Decoder::set_aten): the same distributions, cuts and random
// numbers as sampler.cpp, drawn where the logits are.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/rollout/sampler.h"

namespace assay::train {

// A token's work is one list of device operations in fixed places: the first token of a shape is done plainly, the second
// recorded as a graph and from then on begun with one call (Accelerator::capture; without an accelerator all are done plainly).
// The host waits for nothing in between: every `tokens_between_looks` tokens the rows that have ended are copied to it, and
// looked at when the next copy begins. Where half have ended, the rest go on in smaller tensors.
inline constexpr std::int64_t tokens_between_looks = 8;

// Rows of prompts [first_prompt, first_prompt + count) of `prompts`, into their places in `out`.
void sample_statically(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t first_prompt,
                       std::int64_t count, const SamplerOptions& options, Rollout& out);

// One token for every row of logits [M, V], and its log-prob: int64 [M] and [M]. uniforms double [M], unused with greedy. As
// sampler.h says: temperature, top-k, top-p, min-p; a row whose distribution is not finite gets a log-prob that is not.
struct Drawn {
  at::Tensor tokens, logprobs;
};
Drawn draw_tokens(const at::Tensor& logits, const at::Tensor& uniforms, const SamplerOptions& options);

}  // namespace assay::train
