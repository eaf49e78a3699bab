// Decoding: one token at a time for the rows that are still alive, without a graph.
#include <ATen/ATen.h>

#include <cmath>
#include <numeric>
#include <stdexcept>

#include "trainer/model/graph.h"
#include "trainer/model/kernels/kernels.h"
#include "trainer/model/model.h"

namespace assay::train {

using kernels::active;
using kernels::panel;
using kernels::round_up;

// Slots are rows as they were at the beginning; the live ones are listed, so dropping a row moves nothing.
struct Decoder::DecodeState {
  struct Cache {
    at::Tensor prompt_keys;  // per prompt [K * E, its length padded to a panel], one after the other
    at::Tensor keys;         // [slots, K * E, capacity]: transposed, as the product with a query reads them
    at::Tensor values;       // [slots, K, capacity, E]: what a head reads lies together
  };
  PromptCache prompts;
  std::vector<std::int64_t> prompt_key_start;  // of each prompt in prompt_keys
  std::vector<Cache> layers;
  std::vector<std::int64_t> prompt_of_slot, live;
  std::int64_t capacity = 0, step = 0, max_new = 0;
};

std::shared_ptr<Decoder::DecodeState> Decoder::begin_decode(PromptCache prompts,
                                                            const std::vector<std::int64_t>& prompt_of_row,
                                                            std::int64_t max_new) {
  const at::NoGradGuard no_grad;
  Model& model = *impl_;
  if (model.aten) throw std::logic_error("this decoder decodes by begin_static_decode()");
  model.refresh();
  auto state = std::make_shared<DecodeState>();
  state->prompts = std::move(prompts);
  state->prompt_of_slot = prompt_of_row;
  state->live.resize(prompt_of_row.size());
  std::iota(state->live.begin(), state->live.end(), 0);
  state->max_new = max_new;
  state->capacity = round_up(std::max<std::int64_t>(max_new, 1), panel);
  const std::int64_t width = model.heads.key_width(), slots = static_cast<std::int64_t>(prompt_of_row.size());
  std::int64_t size = 0, longest = 0;
  for (const std::int64_t length : state->prompts.length) {
    state->prompt_key_start.push_back(size);
    size += width * round_up(length, panel);
    longest = std::max(longest, length);
  }
  model.check_positions(longest, max_new);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    DecodeState::Cache cache;
    cache.prompt_keys = at::empty({size}, at::kFloat);
    cache.keys = at::zeros({slots, width, state->capacity}, at::kFloat);
    cache.values = at::empty({slots, model.heads.kv_heads, state->capacity, model.heads.size}, at::kFloat);
    const float* from = data(state->prompts.keys[i]);
    for (std::size_t p = 0; p < state->prompts.length.size(); ++p)
      transpose_keys(from + state->prompts.start[p] * width, width, state->prompts.length[p], width,
                     cache.prompt_keys.mutable_data_ptr<float>() + state->prompt_key_start[p],
                     round_up(state->prompts.length[p], panel));
    state->layers.push_back(std::move(cache));
  }
  return state;
}

namespace {

// Appends the new keys and values and attends: the same products in the same order as attention() in training. Rows behind one
// prompt see its keys and values in one product each, which reads them once and changes no row's bits.
at::Tensor attend(const Heads& heads, Decoder::DecodeState& state, std::size_t layer_index, const Model::Queries& now) {
  const std::int64_t e = heads.size, qw = heads.query_width(), kw = heads.key_width();
  const std::int64_t repeat = heads.heads / heads.kv_heads, step = state.step, capacity = state.capacity;
  const std::int64_t own = step + 1, own_wide = round_up(own, panel);
  const float scale = 1.f / std::sqrt(static_cast<float>(e));
  auto& cache = state.layers[layer_index];
  at::Tensor out = at::empty_like(now.q);
  const float *q = data(now.q), *k = data(now.k), *v = data(now.v), *prompt_keys = data(cache.prompt_keys),
              *prompt_values = data(state.prompts.values[layer_index]);
  float *keys = mutable_data(cache.keys), *values = mutable_data(cache.values), *to = mutable_data(out);
  const auto slot_of = [&](std::int64_t row) { return state.live[static_cast<std::size_t>(row)]; };
  const auto prompt_of = [&](std::int64_t row) { return static_cast<std::size_t>(state.prompt_of_slot[static_cast<std::size_t>(slot_of(row))]); };
  over_rows(static_cast<std::int64_t>(state.live.size()), 16, [&](std::int64_t from, std::int64_t end) {
    std::vector<float> weights;
    for (std::int64_t i = from, next; i < end; i = next) {
      const std::size_t p = prompt_of(i);
      for (next = i + 1; next < end && prompt_of(next) == p;) ++next;
      const std::int64_t rows = next - i, before = state.prompts.length[p], before_wide = round_up(before, panel);
      const std::int64_t stride = before_wide + own_wide;
      for (std::int64_t row = i; row < next; ++row) {
        float* own_keys = keys + slot_of(row) * kw * capacity + step;
        for (std::int64_t j = 0; j < kw; ++j) own_keys[j * capacity] = k[row * kw + j];
        for (std::int64_t j = 0; j < heads.kv_heads; ++j)
          std::memcpy(values + (slot_of(row) * kw + j * e) * capacity + step * e, v + row * kw + j * e, static_cast<std::size_t>(e) * sizeof(float));
      }
      weights.resize(static_cast<std::size_t>(rows * repeat * stride));
      float* const s = weights.data();  // [rows, repeat, stride]
      for (std::int64_t j = 0; j < heads.kv_heads; ++j) {
        const float* const qj = q + i * qw + j * repeat * e;
        float* const toj = to + i * qw + j * repeat * e;
        for (std::int64_t h = 0; h < repeat; ++h)
          active().gemm(rows, before_wide, e, qj + h * e, qw, 1, prompt_keys + state.prompt_key_start[p] + j * e * before_wide, before_wide,
                        s + h * stride, repeat * stride, 1.f, false);
        for (std::int64_t r = 0; r < rows; ++r)
          active().gemm(repeat, own_wide, e, qj + r * qw, e, 1, keys + (slot_of(i + r) * kw + j * e) * capacity, capacity,
                        s + r * repeat * stride + before_wide, stride, 1.f, false);
        active().softmax(rows * repeat, stride, s, scale, before, before_wide, own, nullptr, 0);
        for (std::int64_t h = 0; h < repeat; ++h)
          active().gemm(rows, e, before, s + h * stride, repeat * stride, 1, prompt_values + state.prompts.start[p] * kw + j * e, kw, toj + h * e,
                        qw, 1.f, false);
        for (std::int64_t r = 0; r < rows; ++r)
          active().gemm(repeat, e, own, s + r * repeat * stride + before_wide, stride, 1, values + (slot_of(i + r) * kw + j * e) * capacity, e,
                        toj + r * qw, e, 1.f, true);
      }
    }
  });
  return out;
}

}  // namespace

at::Tensor Decoder::decode_step(DecodeState& state, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  Model& model = *impl_;
  TORCH_CHECK(ids.size(0) == static_cast<std::int64_t>(state.live.size()), "one id a live row");
  TORCH_CHECK(state.step < state.max_new, "more steps than begin_decode() was asked for");
  auto positions = std::make_shared<std::vector<std::int32_t>>();
  for (const std::int64_t slot : state.live)
    positions->push_back(static_cast<std::int32_t>(
        state.prompts.length[static_cast<std::size_t>(state.prompt_of_slot[static_cast<std::size_t>(slot)])] +
        state.step));
  at::Tensor x = model.embed(ids);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const Model::Queries now = model.queries(model.layers[i], x, Positions{positions, {}, {}});
    x = model.after_attention(model.layers[i], x, attend(model.heads, state, i, now));
  }
  ++state.step;
  return model.normalize(x, model.norm, model.norm_noise);
}

void Decoder::keep_rows(DecodeState& state, const std::vector<std::int64_t>& rows) {
  std::vector<std::int64_t> live;
  live.reserve(rows.size());
  for (const std::int64_t row : rows) live.push_back(state.live.at(static_cast<std::size_t>(row)));
  state.live = std::move(live);
}

}  // namespace assay::train
