// Attention and the head: what would keep large tensors for the backward and computes them again instead.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "trainer/model/aten.h"
#include "trainer/model/graph.h"

namespace assay::train {

using torch::autograd::variable_list;

namespace {

using Computed = std::function<variable_list(const variable_list&)>;

struct AgainNode : torch::autograd::Node {
  variable_list inputs;
  Computed f;

  variable_list apply(variable_list&& grads) override {
    variable_list leaves, wanted, outputs, given, result(inputs.size());
    std::vector<std::size_t> places;
    const at::AutoGradMode graph(true);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      leaves.push_back(inputs[i].detach().requires_grad_(task_should_compute_output(i)));
      if (!leaves.back().requires_grad()) continue;
      wanted.push_back(leaves.back());
      places.push_back(i);
    }
    const variable_list made = f(leaves);
    for (std::size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined() || !made[i].requires_grad()) continue;
      outputs.push_back(made[i]);
      given.push_back(grads[i]);
    }
    if (outputs.empty()) return result;
    const variable_list gradients =
        torch::autograd::grad(outputs, wanted, given, std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
    for (std::size_t i = 0; i < places.size(); ++i) result[places[i]] = gradients[i];
    return result;
  }
  std::string name() const override { return "ComputedAgain"; }
  void release_variables() override { inputs.clear(); }
};

// f(inputs), of which only the inputs are kept for the backward. The first `differentiable` results have a gradient.
variable_list computed_again(const variable_list& inputs, std::size_t differentiable, Computed f) {
  variable_list results;
  {
    const at::NoGradGuard no_grad;
    results = f(inputs);
  }
  bool wanted = false;
  for (const at::Tensor& input : inputs) wanted = wanted || any_wants_graph(input);
  if (!wanted) return results;
  auto node = new_node<AgainNode>();
  for (const at::Tensor& input : inputs) node->inputs.push_back(input.detach());
  node->f = std::move(f);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  for (std::size_t i = 0; i < differentiable; ++i) torch::autograd::set_history(results[i], node);
  return results;
}

// x's rows at `from`, at `to` of a matrix of `rows` rows; zeros elsewhere. No place is named twice.
struct MoveNode : torch::autograd::Node {
  at::Tensor from, to;
  std::int64_t rows = 0;  // of x
  variable_list apply(variable_list&& grads) override {
    const OneResult once;
    const at::Tensor& dy = grads[0];
    return {at::zeros({rows, dy.size(1)}, dy.options()).index_copy_(0, from, dy.index_select(0, to))};
  }
  std::string name() const override { return "MoveRows"; }
  void release_variables() override { from = to = at::Tensor(); }
};

at::Tensor moved(const at::Tensor& x, const at::Tensor& from, const at::Tensor& to, std::int64_t rows) {
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    const OneResult once;
    y = at::zeros({rows, x.size(1)}, x.options()).index_copy_(0, to, x.index_select(0, from));
  }
  if (any_wants_graph(x)) {
    auto node = new_node<MoveNode>();
    node->from = from;
    node->to = to;
    node->rows = x.size(0);
    hang(y, node, x);
  }
  return y;
}

}  // namespace

// A layout's tokens in padded places: chunks of groups beside each other, a chunk of P groups as [P, G, T], and the prompts
// of its groups as [P, S].
struct PaddedLayout {
  struct Chunk {
    std::int64_t groups = 0, rows = 0, tokens = 0, prompt = 0;     // P, G, T, S
    std::int64_t start = 0, prompt_start = 0;                      // its first place among all
    at::Tensor prompt_off;                                         // bool [P, 1, 1, 1, S]: no key there
    std::int64_t places() const { return groups * rows * tokens; }
    std::int64_t prompt_places() const { return groups * prompt; }
  };
  std::vector<Chunk> chunks;
  at::Tensor token, place, prompt_token, prompt_place;  // packed token -> padded place
  std::int64_t places = 0, prompt_places = 0;
};

namespace {

// Scores of a head that a chunk may have: 64 M of them, 256 MB.
constexpr std::int64_t most_scores = std::int64_t{1} << 26;

at::Tensor index_on(const std::vector<std::int64_t>& values, const at::Device& device) {
  return at::tensor(at::IntArrayRef(values), at::kLong).to(device);
}

std::shared_ptr<const PaddedLayout> pad(const Layout& layout, const Heads& heads, const at::Device& device) {
  auto padded = std::make_shared<PaddedLayout>();
  std::vector<std::int64_t> token, place, prompt_token, prompt_place;
  const auto at = [](const std::vector<std::int64_t>& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; };
  const auto groups = static_cast<std::int64_t>(layout.group.size()) - 1;
  const auto prompt_of = [&](std::int64_t g) { return at(layout.prompt, at(layout.order, at(layout.group, g))); };
  for (std::int64_t first = 0, behind = 0; first < groups; first = behind) {
    PaddedLayout::Chunk chunk;
    chunk.start = padded->places;
    chunk.prompt_start = padded->prompt_places;
    for (; behind < groups; ++behind) {
      std::int64_t rows = std::max(chunk.rows, at(layout.group, behind + 1) - at(layout.group, behind)), tokens = chunk.tokens,
                   prompt = chunk.prompt;
      for (std::int64_t i = at(layout.group, behind); i < at(layout.group, behind + 1); ++i)
        tokens = std::max(tokens, at(layout.length, at(layout.order, i)));
      if (prompt_of(behind) >= 0) prompt = std::max(prompt, at(layout.prompt_length, prompt_of(behind)));
      if (behind > first && (behind + 1 - first) * rows * tokens * (tokens + prompt) * heads.heads > most_scores) break;
      chunk.groups = behind + 1 - first;
      chunk.rows = rows;
      chunk.tokens = tokens;
      chunk.prompt = prompt;
    }
    at::Tensor off = at::ones({chunk.groups, 1, 1, 1, chunk.prompt}, at::kBool);
    for (std::int64_t g = first; g < behind; ++g) {
      for (std::int64_t i = at(layout.group, g); i < at(layout.group, g + 1); ++i) {
        const std::int64_t row = at(layout.order, i), slot = (g - first) * chunk.rows + i - at(layout.group, g);
        for (std::int64_t t = 0; t < at(layout.length, row); ++t) {
          token.push_back(at(layout.start, row) + t);
          place.push_back(chunk.start + slot * chunk.tokens + t);
        }
      }
      if (prompt_of(g) < 0) continue;
      const std::int64_t length = at(layout.prompt_length, prompt_of(g));
      off[g - first].narrow(-1, 0, length).fill_(false);
      for (std::int64_t t = 0; t < length; ++t) {
        prompt_token.push_back(at(layout.prompt_start, prompt_of(g)) + t);
        prompt_place.push_back(chunk.prompt_start + (g - first) * chunk.prompt + t);
      }
    }
    chunk.prompt_off = off.to(device);
    padded->places += chunk.places();
    padded->prompt_places += chunk.prompt_places();
    padded->chunks.push_back(std::move(chunk));
  }
  padded->token = index_on(token, device);
  padded->place = index_on(place, device);
  padded->prompt_token = index_on(prompt_token, device);
  padded->prompt_place = index_on(prompt_place, device);
  return padded;
}

// q [P * G * T, H * E], k and v [P * G * T, K * E], prompt_k and prompt_v [P * S, K * E] -> [P * G * T, H * E].
at::Tensor attend(const PaddedLayout::Chunk& chunk, const Heads& heads, const variable_list& in) {
  const std::int64_t p = chunk.groups, g = chunk.rows, t = chunk.tokens, s = chunk.prompt, e = heads.size, kv = heads.kv_heads,
                     repeat = heads.heads / kv;
  const double scale = 1.0 / std::sqrt(static_cast<double>(e));
  const double minus_infinity = -std::numeric_limits<double>::infinity();
  const at::Tensor q = in[0].view({p, g, t, kv, repeat, e}) * scale;
  const auto own = [&](const at::Tensor& x) { return x.view({p * g, t, kv, e}).transpose(1, 2).reshape({p * g * kv, t, e}); };
  const auto of_prompt = [&](const at::Tensor& x) { return x.view({p, s, kv, e}).transpose(1, 2).reshape({p * kv, s, e}); };
  const at::Tensor later = at::ones({t, t}, in[0].options().dtype(at::kBool)).triu(1).view({1, t, 1, t});
  at::Tensor weights = at::bmm(q.permute({0, 1, 3, 2, 4, 5}).reshape({p * g * kv, t * repeat, e}), own(in[1]).transpose(1, 2));
  weights = weights.view({p * g * kv, t, repeat, t}).masked_fill(later, minus_infinity).view({p, g, kv, t * repeat, t});
  if (s > 0) {
    const at::Tensor scores =
        at::bmm(q.permute({0, 3, 1, 2, 4, 5}).reshape({p * kv, g * t * repeat, e}), of_prompt(in[3]).transpose(1, 2))
            .view({p, kv, g, t * repeat, s})
            .transpose(1, 2)
            .masked_fill(chunk.prompt_off, minus_infinity);
    weights = at::cat({scores, weights}, 4);
  }
  weights = at::softmax(weights, 4);
  at::Tensor out = at::bmm(weights.narrow(4, s, t).reshape({p * g * kv, t * repeat, t}), own(in[2]))
                       .view({p, g, kv, t, repeat, e})
                       .permute({0, 1, 3, 2, 4, 5});
  if (s > 0)
    out = out + at::bmm(weights.narrow(4, 0, s).transpose(1, 2).reshape({p * kv, g * t * repeat, s}), of_prompt(in[4]))
                    .view({p, kv, g, t, repeat, e})
                    .permute({0, 2, 3, 1, 4, 5});
  return out.reshape(in[0].sizes());
}

}  // namespace

namespace aten {

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& prompt_k,
                     const at::Tensor& prompt_v, const Layout& layout, const Heads& heads) {
  if (layout.tokens == 0) return at::empty_like(q);
  if (!layout.padded) layout.padded = pad(layout, heads, q.device());
  const PaddedLayout& all = *layout.padded;
  variable_list whole;
  for (const at::Tensor* x : {&q, &k, &v}) whole.push_back(moved(*x, all.token, all.place, all.places));
  if (all.prompt_places > 0)
    for (const at::Tensor* x : {&prompt_k, &prompt_v})
      whole.push_back(moved(*x, all.prompt_token, all.prompt_place, all.prompt_places));
  variable_list parts;
  for (const PaddedLayout::Chunk& chunk : all.chunks) {
    variable_list in;
    for (std::size_t i = 0; i < whole.size(); ++i)
      in.push_back(i < 3 ? whole[i].narrow(0, chunk.start, chunk.places())
                         : whole[i].narrow(0, chunk.prompt_start, chunk.prompt_places()));
    if (chunk.places() == 0) continue;
    parts.push_back(computed_again(in, 1, [chunk, heads](const variable_list& x) { return variable_list{attend(chunk, heads, x)}; })[0]);
  }
  return moved(parts.size() == 1 ? parts[0] : at::cat(parts), all.place, all.token, layout.tokens);
}

std::int64_t rows_at_once(const at::Tensor& hidden, std::int64_t vocabulary) {
  const std::int64_t logits = hidden.is_cpu() ? std::int64_t{1} << 20 : std::int64_t{1} << 26;
  return std::max<std::int64_t>(logits / vocabulary, 96);
}

Scores score_tokens(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double temperature,
                    bool entropy_gradient) {
  const std::int64_t m = hidden.size(0), chunk = rows_at_once(hidden, head.size(0));
  variable_list logprobs, entropies;
  for (std::int64_t first = 0; first < m; first += chunk) {
    const std::int64_t rows = std::min(chunk, m - first);
    const at::Tensor chosen = targets.narrow(0, first, rows);
    const variable_list made = computed_again(
        {hidden.narrow(0, first, rows), head}, entropy_gradient ? 2 : 1, [chosen, temperature](const variable_list& x) {
          const at::Tensor all = at::log_softmax(at::mm(x[0], x[1].t()) / temperature, 1);
          // By the loss function, whose backward has one order; gather's has not.
          return variable_list{-at::nll_loss(all, chosen, {}, at::Reduction::None), -(all.exp() * all).sum(1)};
        });
    logprobs.push_back(made[0]);
    entropies.push_back(made[1]);
  }
  if (m == 0) return {at::empty({0}, hidden.options()), at::empty({0}, hidden.options())};
  return {at::cat(logprobs), at::cat(entropies)};
}

}  // namespace aten
}  // namespace assay::train
