#include "trainer/rollout/static_sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "trainer/model/accelerator.h"
#include "trainer/model/aten.h"
#include "trainer/model/static_decode.h"
#include "trainer/profile/profile.h"
#include "trainer/rollout/stream.h"

namespace assay::train {
namespace {

// Running sums of p, double [M, V], along the rows. Within OneResult LibTorch sums a single row in an order that depends on
// timing, several in one order.
at::Tensor running_sums(const at::Tensor& p) {
  return p.size(0) == 1 ? at::cumsum(p.expand({2, p.size(1)}), 1).narrow(0, 0, 1) : at::cumsum(p, 1);
}

// The first place at which the running sum of p passes u times its total; the last that is not zero where rounding lets none.
at::Tensor draw(const at::Tensor& p, const at::Tensor& u) {
  const at::Tensor sums = running_sums(p);
  const at::Tensor aim = u.unsqueeze(1) * sums.narrow(1, sums.size(1) - 1, 1);
  const at::Tensor first = (sums <= aim).sum(1);
  const at::Tensor last = ((p > 0) * at::arange(p.size(1), p.options().dtype(at::kLong))).amax(1);
  return at::minimum(first, last);
}

// What top-k, then top-p, then min-p leave of p, double [M, V] in descending order; zeros elsewhere.
at::Tensor cut(at::Tensor p, const SamplerOptions& options) {
  const at::Tensor place = at::arange(p.size(1), p.options().dtype(at::kLong));
  if (options.top_k > 0) p = p.masked_fill(place >= options.top_k, 0.0);
  const at::Tensor sums = running_sums(p), mass = sums.narrow(1, sums.size(1) - 1, 1);
  const at::Tensor before = at::constant_pad_nd(sums, {1, -1});  // the sum of the places in front of each
  p = p.masked_fill((place > 0).logical_and(before >= options.top_p * mass), 0.0);
  return p.masked_fill((place > 0).logical_and(p < options.min_p * p.narrow(1, 0, 1)), 0.0);
}

Drawn draw_some(const at::Tensor& logits, const at::Tensor& uniforms, const SamplerOptions& options) {
  const bool greedy = options.temperature == 0;
  const at::Tensor all = at::log_softmax(greedy ? logits : logits * static_cast<float>(1.0 / options.temperature), 1);
  at::Tensor tokens;
  if (greedy) {
    tokens = at::argmax(logits, 1);
  } else if (options.top_k > 0 || options.top_p < 1.0 || options.min_p > 0) {
    const auto [sorted, order] = all.exp().sort(/*stable=*/true, /*dim=*/1, /*descending=*/true);  // ties: the lower id first
    tokens = order.gather(1, draw(cut(sorted.to(at::kDouble), options), uniforms).unsqueeze(1)).squeeze(1);
  } else {
    tokens = draw(all.exp().to(at::kDouble), uniforms);
  }
  return {tokens, all.gather(1, tokens.unsqueeze(1)).squeeze(1)};
}

class Sampling {
 public:
  Sampling(Decoder& decoder, const PromptCache& cache, std::int64_t first_row, const SamplerOptions& options)
      : decoder_(decoder), options_(options), state_(decoder.begin_static_decode(cache, options.samples_per_prompt, options.max_new_tokens)) {
    const std::int64_t rows = state_->rows();
    const at::TensorOptions on = at::TensorOptions(decoder.device());
    tokens_ = at::zeros({options.max_new_tokens, rows + 1}, on.dtype(at::kLong));
    logprobs_ = at::zeros({options.max_new_tokens, rows + 1}, on.dtype(at::kFloat));
    uniforms_ = at::zeros({options.max_new_tokens, rows + 1}, at::kDouble);
    if (options.temperature > 0) {
      auto to = uniforms_.accessor<double, 2>();
      for (std::int64_t t = 0; t < options.max_new_tokens; ++t)
        for (std::int64_t i = 0; i < rows; ++i)
          to[t][i] = uniform(options.seed, static_cast<std::uint64_t>(options.first_row + first_row + i), static_cast<std::uint64_t>(t));
    }
    uniforms_ = uniforms_.to(decoder.device());
    ends_ = at::tensor(at::ArrayRef<std::int32_t>(options.eos_ids), at::kLong).to(decoder.device());
    for (std::int64_t i = 0; i < rows; ++i) row_of_slot_.push_back(i);
    rows_ = at::arange(rows, on.dtype(at::kLong));
    ended_ = at::zeros({rows}, on.dtype(at::kBool));
  }

  void run() {
    Accelerator* const accelerator = decoder_.steps_alike() ? decoder_.accelerator() : nullptr;
    std::unique_ptr<Accelerator::Graph> graph;
    std::unique_ptr<Accelerator::Fetch> look;
    bool done_plainly = false;
    at::Tensor ended;
    for (std::int64_t t = 0; t < options_.max_new_tokens; ++t) {
      if (options_.between_tokens) options_.between_tokens();
      if (t > 0 && t % tokens_between_looks == 0) {
        if (look || ended.defined()) {
          const at::Tensor seen = look ? look->wait() : ended;
          if (seen.all().item<bool>()) break;
          if (shrink(seen)) graph = nullptr, done_plainly = false;
        }
        look = decoder_.accelerator() ? decoder_.accelerator()->fetch(ended_) : nullptr;
        ended = decoder_.accelerator() ? at::Tensor() : ended_.clone();
      }
      if (graph) {
        graph->replay();
      } else if (accelerator && done_plainly) {
        graph = accelerator->capture([this] { token(); });
        graph->replay();
      } else {
        token();
        done_plainly = true;
      }
    }
  }

  at::Tensor tokens() const { return tokens_.to(at::kCPU); }      // int64 [C, rows + 1]
  at::Tensor logprobs() const { return logprobs_.to(at::kCPU); }

 private:
  // What is recorded: draws a token for each row, writes it down, and decodes it.
  void token() {
    const OneResult once;
    const at::Tensor& t = state_->steps();
    const at::Tensor uniforms = uniforms_.index_select(0, t).squeeze(0).index_select(0, rows_);
    const at::Tensor& hidden = state_->hidden();
    std::vector<at::Tensor> tokens, logprobs;
    const std::int64_t chunk = aten::rows_at_once(hidden, decoder_.shape().vocabulary);
    for (std::int64_t first = 0; first < hidden.size(0); first += chunk) {
      const std::int64_t some = std::min(chunk, hidden.size(0) - first);
      Drawn drawn = draw_tokens(decoder_.logits(hidden.narrow(0, first, some)), uniforms.narrow(0, first, some), options_);
      tokens.push_back(drawn.tokens);
      logprobs.push_back(drawn.logprobs);
    }
    const at::Tensor ids = at::cat(tokens);
    const auto write = [&](at::Tensor& board, const at::Tensor& values) {
      const at::Tensor line = at::zeros({board.size(1)}, board.options()).index_copy_(0, rows_, values);
      board.index_copy_(0, t, line.unsqueeze(0));
    };
    write(tokens_, ids);
    write(logprobs_, at::cat(logprobs));
    ended_.logical_or_((ids.unsqueeze(1) == ends_).any(1));
    state_->step(ids, ended_.unsqueeze(1));
  }

  // Leaves out rows that had ended when `seen` was taken, where that saves a quarter at least and half of them have. Prompts
  // get as many rows each as the one that needs most; what fills up writes to the column behind the last.
  bool shrink(const at::Tensor& seen) {
    const std::int64_t junk = tokens_.size(1) - 1, group = state_->rows_per_prompt(), slots = state_->rows();
    const auto off = seen.accessor<bool, 1>();
    std::vector<std::vector<std::int64_t>> live(static_cast<std::size_t>(state_->prompts()));
    std::int64_t most = 0, all = 0, alive = 0;
    for (std::int64_t slot = 0; slot < slots; ++slot)
      if (!off[slot]) live[static_cast<std::size_t>(slot / group)].push_back(slot);
    std::vector<std::int64_t> prompts, rows;
    for (std::size_t p = 0; p < live.size(); ++p) {
      if (live[p].empty()) continue;
      prompts.push_back(static_cast<std::int64_t>(p));
      most = std::max(most, static_cast<std::int64_t>(live[p].size()));
      alive += static_cast<std::int64_t>(live[p].size());
    }
    all = most * static_cast<std::int64_t>(prompts.size());
    if (alive * 2 > slots || all * 4 > slots * 3) return false;
    std::vector<std::int64_t> row_of_slot;
    at::Tensor fills = at::zeros({all}, at::kBool);
    for (const std::int64_t p : prompts) {
      const auto& own = live[static_cast<std::size_t>(p)];
      for (std::int64_t i = 0; i < most; ++i) {
        const bool fill = i >= static_cast<std::int64_t>(own.size());
        const std::int64_t slot = fill ? own.front() : own[static_cast<std::size_t>(i)];
        if (fill) fills[static_cast<std::int64_t>(rows.size())] = true;
        rows.push_back(slot);
        row_of_slot.push_back(fill ? junk : row_of_slot_[static_cast<std::size_t>(slot)]);
      }
    }
    state_->keep(prompts, rows);
    row_of_slot_ = std::move(row_of_slot);
    const auto index = [&](const std::vector<std::int64_t>& values) {
      return at::tensor(at::IntArrayRef(values), at::kLong).to(decoder_.device());
    };
    rows_ = index(row_of_slot_);
    ended_ = ended_.index_select(0, index(rows)).logical_or(fills.to(decoder_.device()));
    return true;
  }

  Decoder& decoder_;
  const SamplerOptions& options_;
  std::unique_ptr<StaticDecode> state_;
  at::Tensor tokens_, logprobs_, uniforms_;  // [C, rows + 1]: a column for each row, and one for what fills up
  at::Tensor ends_, rows_, ended_;           // eos ids; row of each slot; bool, of each slot
  std::vector<std::int64_t> row_of_slot_;
};

}  // namespace

Drawn draw_tokens(const at::Tensor& logits, const at::Tensor& uniforms, const SamplerOptions& options) {
  const OneResult once;
  return draw_some(logits, uniforms, options);
}

void sample_statically(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t first_prompt,
                       std::int64_t count, const SamplerOptions& options, Rollout& out) {
  if (options.max_new_tokens == 0) return;
  const Rows batch(prompts.begin() + first_prompt, prompts.begin() + first_prompt + count);
  const std::int64_t first_row = first_prompt * options.samples_per_prompt;
  at::Tensor tokens, logprobs;
  const auto work = [&] {
    const PromptCache cache = [&] {
      const Span span("prefill");
      return decoder.prefill(batch);
    }();
    Sampling sampling(decoder, cache, first_row, options);
    const Span span("decode");
    sampling.run();
    tokens = sampling.tokens();
    logprobs = sampling.logprobs();
  };
  if (decoder.accelerator()) decoder.accelerator()->on_own_stream(work);
  else work();
  const auto ids = tokens.accessor<std::int64_t, 2>();
  const auto values = logprobs.accessor<float, 2>();
  for (std::int64_t i = 0; i < count * options.samples_per_prompt; ++i) {
    const auto row = static_cast<std::size_t>(first_row + i);
    for (std::int64_t t = 0; t < options.max_new_tokens && out.truncated[row]; ++t) {
      if (!std::isfinite(values[t][i])) throw NonFiniteLogits("sampling: a row's logits are not finite");
      const auto id = static_cast<std::int32_t>(ids[t][i]);
      out.responses[row].push_back(id);
      out.logprobs[row].push_back(values[t][i]);
      out.truncated[row] = std::find(options.eos_ids.begin(), options.eos_ids.end(), id) == options.eos_ids.end();
    }
  }
}

}  // namespace assay::train
