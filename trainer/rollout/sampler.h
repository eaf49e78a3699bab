// Batched sampling with a KV cache; the sampler's own log-probs are kept.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#include "trainer/model/decoder.h"

namespace assay::train {

struct SamplerOptions {
  std::int64_t samples_per_prompt = 1;  // G
  double temperature = 1.0;             // 0: greedy
  std::int64_t top_k = 0;               // 0: off
  double top_p = 1.0;
  double min_p = 0;                     // share of the likeliest token's probability; 0: off
  std::int64_t max_new_tokens = 0;
  std::int64_t batch_size = 0;          // rows at once, rounded down to whole groups; 0: all
  std::vector<std::int32_t> eos_ids;
  std::uint64_t seed = 0;               // with greedy: unused. Row i's token t is drawn with number t of the stream
                                        // (seed, first_row + i) (stream.h): what a row gets does not depend on which other rows
                                        // are alive or on batch_size
  std::int64_t first_row = 0;           // number of this call's first row among all that share the seed
  std::function<void()> between_tokens; // called before each decode step; what it throws ends the sampling
};

// N = prompts * G rows, the samples of a prompt beside each other.
struct Rollout {
  std::vector<std::vector<std::int32_t>> responses;  // with the end-of-text token when it was drawn
  std::vector<std::vector<float>> logprobs;          // of each token under the distribution it was drawn from at
                                                     // `temperature` (before top-k and top-p cut it); greedy: temperature 1
  std::vector<bool> truncated;                       // no end of text within max_new_tokens
};

struct NonFiniteLogits : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Sets no phase: the caller says under which quantization it samples (decoder.set_phase).
// Throws std::runtime_error as Decoder::prefill() does, and NonFiniteLogits when a row's distribution is not finite.
Rollout sample(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts, const SamplerOptions& options);

// Log-probs of given responses at `temperature`, with gradient: rows as in Rollout. prompts[i / G] belongs to row i.
struct TokenLogprobs {
  at::Tensor logprobs;  // [N, R], 0 where mask is 0
  at::Tensor entropy;   // [N, R], detached unless entropy_gradient
  at::Tensor mask;      // [N, R], 1 on response tokens
};
TokenLogprobs token_logprobs(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts,
                             const std::vector<std::vector<std::int32_t>>& responses, std::int64_t samples_per_prompt,
                             double temperature, bool entropy_gradient = false);

}  // namespace assay::train
