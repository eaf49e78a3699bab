#include "trainer/model/static_decode.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "trainer/model/aten.h"

namespace assay::train {

StaticDecode::StaticDecode(Model& model, const PromptCache& prompts, std::int64_t rows_per_prompt, std::int64_t max_new)
    : model_(model),
      prompts_(static_cast<std::int64_t>(prompts.length.size())),
      rows_per_prompt_(rows_per_prompt),
      capacity_(std::max<std::int64_t>(max_new, 1)) {
  const at::NoGradGuard no_grad;
  const OneResult once;  // a prompt's token has one place
  const at::TensorOptions options = prompts.last.options();
  const std::int64_t kv = model.heads.kv_heads, e = model.heads.size;
  for (const std::int64_t length : prompts.length) longest_ = std::max(longest_, length);
  model.check_positions(longest_, max_new);
  model.refresh();
  std::vector<std::int64_t> token, place, before;
  at::Tensor off = at::ones({prompts_, 1, 1, 1, longest_}, at::kBool);
  for (std::int64_t p = 0; p < prompts_; ++p) {
    const std::int64_t length = prompts.length[static_cast<std::size_t>(p)];
    off[p].narrow(-1, 0, length).fill_(false);
    before.insert(before.end(), static_cast<std::size_t>(rows_per_prompt), length);
    for (std::int64_t t = 0; t < length; ++t) {
      token.push_back(prompts.start[static_cast<std::size_t>(p)] + t);
      place.push_back(p * longest_ + t);
    }
  }
  const auto index = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(at::IntArrayRef(values), at::kLong).to(options.device());
  };
  const at::Tensor from = index(token), to = index(place);
  const auto padded = [&](const at::Tensor& x) {  // [tokens, K * E] -> [P, K, S, E]
    const at::Tensor y = at::zeros({prompts_ * longest_, kv * e}, options);
    y.index_copy_(0, to, x.index_select(0, from));
    return y.view({prompts_, longest_, kv, e}).transpose(1, 2).contiguous();
  };
  for (std::size_t i = 0; i < model.layers.size(); ++i)
    layers_.push_back({padded(prompts.keys[i]), padded(prompts.values[i]), at::zeros({rows(), kv, capacity_, e}, options),
                       at::zeros({rows(), kv, capacity_, e}, options)});
  before_ = index(before);
  prompt_off_ = off.to(options.device());
  places_ = at::arange(capacity_, options.dtype(at::kLong));
  hidden_ = prompts.last.repeat_interleave(rows_per_prompt, 0);
  steps_ = at::zeros({1}, options.dtype(at::kLong));
}

void StaticDecode::step(const at::Tensor& ids, const at::Tensor& ended) {
  const at::NoGradGuard no_grad;
  const AtenScope aten(true);
  const OneResult once;  // a row's new key has one place
  const at::Tensor position = before_ + steps_;
  const Positions positions{nullptr, model_.rope.cosine_tensor().index_select(0, position).unsqueeze(1),
                            model_.rope.sine_tensor().index_select(0, position).unsqueeze(1)};
  const at::Tensor own_off = places_ > steps_;
  model_.quantizers.ended = ended;
  at::Tensor x = model_.embed(ids);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Model::Queries now = model_.queries(model_.layers[i], x, positions);
    x = model_.after_attention(model_.layers[i], x, attend(layers_[i], now, own_off));
  }
  model_.quantizers.ended = at::Tensor();
  hidden_.copy_(model_.normalize(x, model_.norm, model_.norm_noise));
  steps_.add_(1);
}

at::Tensor StaticDecode::attend(Cache& cache, const Model::Queries& now, const at::Tensor& own_off) const {
  const std::int64_t p = prompts_, g = rows_per_prompt_, s = longest_, e = model_.heads.size, kv = model_.heads.kv_heads,
                     repeat = model_.heads.heads / kv;
  const double minus_infinity = -std::numeric_limits<double>::infinity();
  cache.keys.index_copy_(2, steps_, now.k.view({p * g, kv, 1, e}));
  cache.values.index_copy_(2, steps_, now.v.view({p * g, kv, 1, e}));
  const at::Tensor q = (now.q * (1.0 / std::sqrt(static_cast<double>(e)))).view({p, g, kv, repeat, e});
  const at::Tensor own = at::bmm(q.view({p * g * kv, repeat, e}), cache.keys.view({p * g * kv, capacity_, e}).transpose(1, 2))
                             .masked_fill(own_off, minus_infinity)
                             .view({p, g, kv, repeat, capacity_});
  const at::Tensor of_prompt =
      at::bmm(q.transpose(1, 2).reshape({p * kv, g * repeat, e}), cache.prompt_keys.view({p * kv, s, e}).transpose(1, 2))
          .view({p, kv, g, repeat, s})
          .transpose(1, 2)
          .masked_fill(prompt_off_, minus_infinity);
  const at::Tensor weights = at::softmax(at::cat({of_prompt, own}, 4), 4);
  const at::Tensor mixed_own = at::bmm(weights.narrow(4, s, capacity_).reshape({p * g * kv, repeat, capacity_}),
                                       cache.values.view({p * g * kv, capacity_, e}));
  const at::Tensor mixed = at::bmm(weights.narrow(4, 0, s).transpose(1, 2).reshape({p * kv, g * repeat, s}),
                                   cache.prompt_values.view({p * kv, s, e}))
                               .view({p, kv, g, repeat, e})
                               .transpose(1, 2);
  return (mixed + mixed_own.view({p, g, kv, repeat, e})).reshape({p * g, kv * repeat * e});
}

void StaticDecode::keep(const std::vector<std::int64_t>& prompts, const std::vector<std::int64_t>& rows) {
  const at::NoGradGuard no_grad;
  const auto index = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(at::IntArrayRef(values), at::kLong).to(hidden_.device());
  };
  const at::Tensor of_prompts = index(prompts), of_rows = index(rows);
  for (Cache& cache : layers_) {  // one after the other: the old ones are let go of before the next
    cache.prompt_keys = cache.prompt_keys.index_select(0, of_prompts);
    cache.prompt_values = cache.prompt_values.index_select(0, of_prompts);
    cache.keys = cache.keys.index_select(0, of_rows);
    cache.values = cache.values.index_select(0, of_rows);
  }
  before_ = before_.index_select(0, of_rows);
  prompt_off_ = prompt_off_.index_select(0, of_prompts);
  hidden_ = hidden_.index_select(0, of_rows);
  prompts_ = static_cast<std::int64_t>(prompts.size());
  rows_per_prompt_ = static_cast<std::int64_t>(rows.size()) / prompts_;
}

}  // namespace assay::train
