// Log-probs of given responses, with gradient: each prompt computed once for all of its samples.
#include <ATen/ATen.h>

#include <algorithm>

#include "trainer/rollout/sampler.h"

namespace assay::train {

TokenLogprobs token_logprobs(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts,
                             const std::vector<std::vector<std::int32_t>>& responses, std::int64_t samples_per_prompt,
                             double temperature, bool entropy_gradient) {
  TORCH_CHECK(responses.size() == prompts.size() * static_cast<std::size_t>(samples_per_prompt),
              "samples_per_prompt responses a prompt");
  const PromptCache cache = decoder.prefill(rows_of(prompts));

  // A row's first token is predicted by its prompt's last hidden state, token j by the hidden state of token j - 1: the
  // last token of a response predicts nothing and is left out.
  Rows inputs;
  std::vector<std::int64_t> prompt_of_row, targets, sources, places;
  const auto prompt_count = static_cast<std::int64_t>(prompts.size());
  const auto rows = static_cast<std::int64_t>(responses.size());
  std::int64_t longest = 0, packed = 0;
  for (const auto& response : responses) longest = std::max(longest, static_cast<std::int64_t>(response.size()));
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto& response = responses[static_cast<std::size_t>(i)];
    const auto length = static_cast<std::int64_t>(response.size());
    inputs.emplace_back(response.data(), static_cast<std::size_t>(std::max<std::int64_t>(0, length - 1)));
    prompt_of_row.push_back(i / samples_per_prompt);
    for (std::int64_t j = 0; j < length; ++j) {
      targets.push_back(response[static_cast<std::size_t>(j)]);
      sources.push_back(j == 0 ? i / samples_per_prompt : prompt_count + packed + j - 1);
      places.push_back(i * longest + j);
    }
    packed += std::max<std::int64_t>(0, length - 1);
  }
  for (const std::int64_t id : targets)
    TORCH_CHECK(id >= 0 && id < decoder.shape().vocabulary, "a response holds an id outside of the vocabulary");

  const at::Tensor states = at::cat({cache.last, decoder.respond(cache, prompt_of_row, inputs)});
  const auto index = [&](const std::vector<std::int64_t>& values) { return at::tensor(values, at::kLong).to(states.device()); };
  const at::Tensor hidden = states.index_select(0, index(sources));
  const ScoredTokens scored = decoder.score(hidden, index(targets), temperature, entropy_gradient);
  const at::Tensor where = index(places);
  const auto spread = [&](const at::Tensor& values) {
    return at::zeros({rows * longest}, values.options()).index_copy(0, where, values).view({rows, longest});
  };
  return {spread(scored.logprobs), spread(scored.entropy), spread(at::ones_like(scored.entropy))};
}

}  // namespace assay::train
