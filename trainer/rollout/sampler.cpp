#include "trainer/rollout/sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "trainer/model/kernels/kernels.h"
#include "trainer/model/ops.h"
#include "trainer/profile/profile.h"
#include "trainer/rollout/static_sampler.h"
#include "trainer/rollout/stream.h"

namespace assay::train {

namespace {

// The first token at which the running sum of p, in the order given, passes u times its total.
std::int32_t draw(const float* p, std::int64_t n, double u) {
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += p[i];
  const double aim = u * total;
  double sum = 0;
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (p[i] <= 0) continue;
    sum += p[i];
    last = i;
    if (sum > aim) break;
  }
  return static_cast<std::int32_t>(last);
}

// top-k, then top-p of what is left (the smallest set whose probability reaches top_p; at least one token), then min-p:
// the order of transformers. Ties in favour of the lower id.
std::int32_t draw_cut(const float* p, std::int64_t n, double u, const SamplerOptions& options,
                      std::vector<std::int32_t>& order, std::vector<float>& kept) {
  order.resize(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [p](std::int32_t a, std::int32_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; });
  std::int64_t count = options.top_k > 0 ? std::min(options.top_k, n) : n;
  double mass = 0;
  for (std::int64_t i = 0; i < count; ++i) mass += p[order[static_cast<std::size_t>(i)]];
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    sum += p[order[static_cast<std::size_t>(i)]];
    if (sum >= options.top_p * mass) count = i + 1;
  }
  const double least = options.min_p * p[order[0]];
  while (count > 1 && p[order[static_cast<std::size_t>(count - 1)]] < least) --count;
  kept.clear();
  for (std::int64_t i = 0; i < count; ++i) kept.push_back(p[order[static_cast<std::size_t>(i)]]);
  return order[static_cast<std::size_t>(draw(kept.data(), count, u))];
}

struct Choice {
  std::int32_t token = 0;
  float logprob = 0;
};

// One token for every row of hidden [M, D]. `row_of` says whose stream a row draws from.
std::vector<Choice> choose(Decoder& decoder, const at::Tensor& hidden, const std::vector<std::int64_t>& row_of,
                           std::uint64_t t, const SamplerOptions& options) {
  const Span span("sampling");
  const bool greedy = options.temperature == 0;
  const auto inverse = static_cast<float>(greedy ? 1.0 : 1.0 / options.temperature);
  const bool cut = options.top_k > 0 || options.top_p < 1.0 || options.min_p > 0;
  const std::int64_t vocabulary = decoder.shape().vocabulary, rows = hidden.size(0);
  std::vector<Choice> choices(static_cast<std::size_t>(rows));
  const std::int64_t chunk = std::clamp<std::int64_t>((1 << 20) / vocabulary, 96, 960);  // as score_tokens()
  for (std::int64_t r0 = 0; r0 < rows; r0 += chunk) {
    at::Tensor logits;
    {
      const Span product("logits");
      logits = decoder.logits(hidden.narrow(0, r0, std::min(chunk, rows - r0)));
    }
    float* z = logits.mutable_data_ptr<float>();
    over_rows(logits.size(0), 8, [&](std::int64_t from, std::int64_t to) {
      std::vector<std::int32_t> order;
      std::vector<float> kept, raw;
      for (std::int64_t i = from; i < to; ++i) {
        float* row = z + i * vocabulary;
        Choice& choice = choices[static_cast<std::size_t>(r0 + i)];
        raw.assign(row, row + vocabulary);
        float largest = 0, log_sum = 0;
        kernels::active().distribution(vocabulary, row, inverse, &largest, &log_sum, nullptr);  // row: probabilities
        if (!std::isfinite(log_sum)) {
          choice.logprob = NAN;
          continue;
        }
        if (greedy) {
          choice.token = static_cast<std::int32_t>(std::max_element(raw.begin(), raw.end()) - raw.begin());
        } else {
          const double u = uniform(options.seed, static_cast<std::uint64_t>(options.first_row + row_of[static_cast<std::size_t>(r0 + i)]), t);
          choice.token = cut ? draw_cut(row, vocabulary, u, options, order, kept)
                             : draw(row, vocabulary, u);
        }
        choice.logprob = (raw[static_cast<std::size_t>(choice.token)] * inverse - largest) - log_sum;
      }
    });
  }
  for (const Choice& choice : choices)
    if (!std::isfinite(choice.logprob)) throw NonFiniteLogits("sampling: a row's logits are not finite");
  return choices;
}

// Samples rows [first, first + rows) of the whole rollout.
void sample_batch(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t first_prompt,
                  std::int64_t prompt_count, const SamplerOptions& options, Rollout& out) {
  const std::int64_t g = options.samples_per_prompt;
  Rows batch;
  for (std::int64_t i = 0; i < prompt_count; ++i) batch.emplace_back(prompts[static_cast<std::size_t>(first_prompt + i)]);
  PromptCache cache = [&] {
    const Span span("prefill");
    return decoder.prefill(batch);
  }();
  std::vector<std::int64_t> prompt_of_row, live_row;
  for (std::int64_t i = 0; i < prompt_count * g; ++i) {
    prompt_of_row.push_back(i / g);
    live_row.push_back(first_prompt * g + i);
  }
  at::Tensor hidden = cache.last.index_select(0, at::tensor(prompt_of_row, at::kLong));
  const auto state = decoder.begin_decode(std::move(cache), prompt_of_row, options.max_new_tokens);
  for (std::int64_t t = 0; t < options.max_new_tokens; ++t) {
    if (options.between_tokens) options.between_tokens();
    const std::vector<Choice> choices = choose(decoder, hidden, live_row, static_cast<std::uint64_t>(t), options);
    std::vector<std::int64_t> keep, still_live, next;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const auto row = static_cast<std::size_t>(live_row[i]);
      out.responses[row].push_back(choices[i].token);
      out.logprobs[row].push_back(choices[i].logprob);
      const bool ended =
          std::find(options.eos_ids.begin(), options.eos_ids.end(), choices[i].token) != options.eos_ids.end();
      if (ended) {
        out.truncated[row] = false;
      } else {
        keep.push_back(static_cast<std::int64_t>(i));
        still_live.push_back(live_row[i]);
        next.push_back(choices[i].token);
      }
    }
    if (keep.empty() || t + 1 == options.max_new_tokens) break;
    const Span span("decode");
    if (keep.size() < choices.size()) decoder.keep_rows(*state, keep);
    live_row = std::move(still_live);
    hidden = decoder.decode_step(*state, at::tensor(next, at::kLong));
  }
}

}  // namespace

Rollout sample(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts, const SamplerOptions& options) {
  TORCH_CHECK(options.samples_per_prompt >= 1 && options.temperature >= 0 && options.max_new_tokens >= 0);
  const at::NoGradGuard no_grad;
  const std::int64_t g = options.samples_per_prompt, count = static_cast<std::int64_t>(prompts.size());
  const auto rows = static_cast<std::size_t>(count * g);
  Rollout out;
  out.responses.resize(rows);
  out.logprobs.resize(rows);
  out.truncated.assign(rows, true);
  const std::int64_t at_once =
      options.batch_size > 0 ? std::max<std::int64_t>(1, options.batch_size / g) : std::max<std::int64_t>(1, count);
  for (std::int64_t p = 0; p < count; p += at_once)
    (decoder.by_aten() ? sample_statically : sample_batch)(decoder, prompts, p, std::min(at_once, count - p), options, out);
  return out;
}

}  // namespace assay::train
