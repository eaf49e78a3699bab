#include "trainer/model/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "trainer/model/aten.h"
#include "trainer/model/graph.h"
#include "trainer/model/kernels/kernels.h"
#include "trainer/model/live_rows.h"
#include "trainer/model/ops.h"

namespace assay::train {

using kernels::active;
using kernels::panel;
using kernels::round_up;

std::shared_ptr<const Layout> Layout::of(const std::vector<std::int64_t>& lengths) {
  return behind({}, {}, std::vector<std::int64_t>(lengths.size(), -1), lengths);
}

std::shared_ptr<const Layout> Layout::behind(const std::vector<std::int64_t>& prompt_start,
                                             const std::vector<std::int64_t>& prompt_length,
                                             const std::vector<std::int64_t>& prompt_of_row,
                                             const std::vector<std::int64_t>& lengths) {
  auto layout = std::make_shared<Layout>();
  layout->prompt_start = prompt_start;
  layout->prompt_length = prompt_length;
  layout->prompt = prompt_of_row;
  layout->length = lengths;
  auto positions = std::make_shared<std::vector<std::int32_t>>();
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const std::int64_t before = prompt_of_row[i] < 0 ? 0 : prompt_length[static_cast<std::size_t>(prompt_of_row[i])];
    layout->start.push_back(layout->tokens);
    layout->tokens += lengths[i];
    layout->longest = std::max(layout->longest, before + lengths[i]);
    for (std::int64_t t = 0; t < lengths[i]; ++t) positions->push_back(static_cast<std::int32_t>(before + t));
  }
  layout->positions = std::move(positions);
  layout->order.resize(lengths.size());
  std::iota(layout->order.begin(), layout->order.end(), 0);
  std::stable_sort(layout->order.begin(), layout->order.end(), [&](std::int64_t a, std::int64_t b) {
    return prompt_of_row[static_cast<std::size_t>(a)] < prompt_of_row[static_cast<std::size_t>(b)];
  });
  for (std::size_t i = 0; i < layout->order.size(); ++i) {
    const std::int64_t p = prompt_of_row[static_cast<std::size_t>(layout->order[i])];
    if (i == 0 || p < 0 || p != prompt_of_row[static_cast<std::size_t>(layout->order[i - 1])])
      layout->group.push_back(static_cast<std::int64_t>(i));
  }
  layout->group.push_back(static_cast<std::int64_t>(lengths.size()));
  return layout;
}

void transpose_keys(const float* keys, std::int64_t stride, std::int64_t count, std::int64_t e, float* to,
                    std::int64_t width) {
  for (std::int64_t i = 0; i < e; ++i) {
    for (std::int64_t t = 0; t < count; ++t) to[i * width + t] = keys[t * stride + i];
    for (std::int64_t t = count; t < width; ++t) to[i * width + t] = 0.f;
  }
}

namespace {

// The keys and values that one row's queries see, for one key/value head.
struct Seen {
  std::int64_t prompt = 0, prompt_wide = 0, own = 0, own_wide = 0;  // counts; _wide: padded to whole panels
  const float *prompt_k = nullptr, *prompt_v = nullptr, *own_k = nullptr, *own_v = nullptr;  // token-major
  std::int64_t stride() const { return prompt_wide + own_wide; }
};

struct Scratch {
  std::vector<float> prompt_t, own_t, prompt_vt, own_vt, scores, slopes;
  static float* room(std::vector<float>& v, std::int64_t n) {
    if (static_cast<std::int64_t>(v.size()) < n) v.resize(static_cast<std::size_t>(n));
    return v.data();
  }
};

// scores [n, stride] = rows · [prompt^T | own^T]
void against(const float* rows, std::int64_t row_stride, const Seen& seen, const float* prompt_t, const float* own_t,
             std::int64_t e, float* scores) {
  if (seen.prompt_wide)
    active().gemm(seen.own, seen.prompt_wide, e, rows, row_stride, 1, prompt_t, seen.prompt_wide, scores,
                  seen.stride(), 1.f, false);
  active().gemm(seen.own, seen.own_wide, e, rows, row_stride, 1, own_t, seen.own_wide, scores + seen.prompt_wide,
                seen.stride(), 1.f, false);
}

// to [n, e] = weights · [prompt; own]
void mixed(const float* weights, const Seen& seen, const float* prompt, const float* own, std::int64_t kv_stride,
           std::int64_t e, float* to, std::int64_t to_stride) {
  active().gemm(seen.own, e, seen.prompt, weights, seen.stride(), 1, prompt, kv_stride, to, to_stride, 1.f, false);
  active().gemm(seen.own, e, seen.own, weights + seen.prompt_wide, seen.stride(), 1, own, kv_stride, to, to_stride,
                1.f, true);
}

// A group of rows (one prompt's) and one key/value head: what one thread does, since its rows add to the same gradients, in order.
std::int64_t shares(const Layout& layout, const Heads& heads) { return (static_cast<std::int64_t>(layout.group.size()) - 1) * heads.kv_heads; }

// Calls f(row, seen, key/value head, first of its share) for every row of shares [from, to).
template <class F>
void each_row(const Layout& layout, const Heads& heads, const float* k, const float* v, const float* prompt_k,
              const float* prompt_v, std::int64_t from, std::int64_t to, F f) {
  const std::int64_t width = heads.key_width();
  for (std::int64_t share = from; share < to; ++share) {
    const auto g = static_cast<std::size_t>(share / heads.kv_heads);
    const std::int64_t j = share % heads.kv_heads;
    for (std::int64_t i = layout.group[g]; i < layout.group[g + 1]; ++i) {
      const auto row = static_cast<std::size_t>(layout.order[static_cast<std::size_t>(i)]);
      Seen seen;
      seen.own = layout.length[row];
      seen.own_wide = round_up(seen.own, panel);
      seen.own_k = k + layout.start[row] * width + j * heads.size;
      seen.own_v = v + layout.start[row] * width + j * heads.size;
      if (layout.prompt[row] >= 0) {
        const auto p = static_cast<std::size_t>(layout.prompt[row]);
        seen.prompt = layout.prompt_length[p];
        seen.prompt_wide = round_up(seen.prompt, panel);
        seen.prompt_k = prompt_k + layout.prompt_start[p] * width + j * heads.size;
        seen.prompt_v = prompt_v + layout.prompt_start[p] * width + j * heads.size;
      }
      f(row, seen, j, i == layout.group[g]);
    }
  }
}

// Inputs: q, k, v, prompt_k, prompt_v.
struct AttentionNode : torch::autograd::Node {
  at::Tensor q, k, v, prompt_k, prompt_v, lse;
  std::shared_ptr<const Layout> layout;
  Heads heads;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    const at::Tensor dout = grads[0].contiguous();
    at::Tensor dq = at::empty_like(q), dk = at::zeros_like(k), dv = at::zeros_like(v), dpk, dpv;
    if (prompt_k.defined()) {
      dpk = at::zeros_like(prompt_k);
      dpv = at::zeros_like(prompt_v);
    }
    const float *pq = data(q), *pk = data(k), *pv = data(v), *ppk = prompt_k.defined() ? data(prompt_k) : nullptr,
                *ppv = prompt_v.defined() ? data(prompt_v) : nullptr, *plse = data(lse), *pd = data(dout);
    float *pdq = mutable_data(dq), *pdk = mutable_data(dk), *pdv = mutable_data(dv),
          *pdpk = dpk.defined() ? mutable_data(dpk) : nullptr, *pdpv = dpv.defined() ? mutable_data(dpv) : nullptr;
    const std::int64_t e = heads.size, qw = heads.query_width(), kw = heads.key_width();
    const std::int64_t repeat = heads.heads / heads.kv_heads;
    const float scale = 1.f / std::sqrt(static_cast<float>(e));
    over_rows(shares(*layout, heads), 1, [&](std::int64_t from, std::int64_t to) {
      Scratch s;
      bool turned = false;
      each_row(*layout, heads, pk, pv, ppk, ppv, from, to,
               [&](std::size_t row, const Seen& seen, std::int64_t j, bool first) {
        const std::int64_t n = seen.own, stride = seen.stride();
        if (first) turned = false;
        // Without a gradient a row adds zeros to everything (live_rows.h).
        if (all_zero(pd + layout->start[row] * qw, n * qw)) {
          if (j == 0) std::fill_n(pdq + layout->start[row] * qw, n * qw, 0.f);
          return;
        }
        float* prompt_t = Scratch::room(s.prompt_t, e * seen.prompt_wide);
        float* prompt_vt = Scratch::room(s.prompt_vt, e * seen.prompt_wide);
        if (!turned) {
          transpose_keys(seen.prompt_k, kw, seen.prompt, e, prompt_t, seen.prompt_wide);
          transpose_keys(seen.prompt_v, kw, seen.prompt, e, prompt_vt, seen.prompt_wide);
          turned = true;
        }
        float* own_t = Scratch::room(s.own_t, e * seen.own_wide);
        float* own_vt = Scratch::room(s.own_vt, e * seen.own_wide);
        transpose_keys(seen.own_k, kw, n, e, own_t, seen.own_wide);
        transpose_keys(seen.own_v, kw, n, e, own_vt, seen.own_wide);
        float* p = Scratch::room(s.scores, n * stride);
        float* ds = Scratch::room(s.slopes, n * stride);
        const auto start = layout->start[row];
        float *own_dk = pdk + start * kw + j * e, *own_dv = pdv + start * kw + j * e;
        float *prompt_dk = seen.prompt ? pdpk + (seen.prompt_k - ppk) : nullptr,
              *prompt_dv = seen.prompt ? pdpv + (seen.prompt_v - ppv) : nullptr;
        for (std::int64_t h = j * repeat; h < (j + 1) * repeat; ++h) {
          const float *qh = pq + start * qw + h * e, *dh = pd + start * qw + h * e;
          against(qh, qw, seen, prompt_t, own_t, e, p);
          active().softmax_again(n, stride, p, scale, seen.prompt, seen.prompt_wide, plse + start * heads.heads + h,
                                 heads.heads);
          against(dh, qw, seen, prompt_vt, own_vt, e, ds);
          active().softmax_backward(n, stride, p, ds, scale, seen.prompt_wide);
          mixed(ds, seen, seen.prompt_k, seen.own_k, kw, e, pdq + start * qw + h * e, qw);
          if (seen.prompt) {
            active().gemm(seen.prompt, e, n, ds, 1, stride, qh, qw, prompt_dk, kw, 1.f, true);
            active().gemm(seen.prompt, e, n, p, 1, stride, dh, qw, prompt_dv, kw, 1.f, true);
          }
          active().gemm(n, e, n, ds + seen.prompt_wide, 1, stride, qh, qw, own_dk, kw, 1.f, true);
          active().gemm(n, e, n, p + seen.prompt_wide, 1, stride, dh, qw, own_dv, kw, 1.f, true);
        }
      });
    });
    return {dq, dk, dv, dpk, dpv};
  }
  std::string name() const override { return "Attention"; }
  void release_variables() override { q = k = v = prompt_k = prompt_v = lse = at::Tensor(); }
};

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& prompt_k,
                     const at::Tensor& prompt_v, const std::shared_ptr<const Layout>& layout, const Heads& heads) {
  if (!by_kernels(q)) return aten::attention(q, k, v, prompt_k, prompt_v, *layout, heads);
  at::Tensor out = at::empty_like(q);
  const bool graph = any_wants_graph(q, k, v, prompt_k, prompt_v);
  at::Tensor lse = graph ? at::empty({q.size(0), heads.heads}, q.options()) : at::Tensor();
  const float *pq = data(q), *pk = data(k), *pv = data(v), *ppk = prompt_k.defined() ? data(prompt_k) : nullptr,
              *ppv = prompt_v.defined() ? data(prompt_v) : nullptr;
  float *po = mutable_data(out), *plse = graph ? mutable_data(lse) : nullptr;
  const std::int64_t e = heads.size, qw = heads.query_width(), kw = heads.key_width();
  const std::int64_t repeat = heads.heads / heads.kv_heads;
  const float scale = 1.f / std::sqrt(static_cast<float>(e));
  over_rows(shares(*layout, heads), 1, [&](std::int64_t from, std::int64_t to) {
    Scratch s;
    each_row(*layout, heads, pk, pv, ppk, ppv, from, to,
             [&](std::size_t row, const Seen& seen, std::int64_t j, bool first) {
      const std::int64_t n = seen.own, stride = seen.stride();
      float* prompt_t = Scratch::room(s.prompt_t, e * seen.prompt_wide);
      if (first) transpose_keys(seen.prompt_k, kw, seen.prompt, e, prompt_t, seen.prompt_wide);
      if (n == 0) return;
      float* own_t = Scratch::room(s.own_t, e * seen.own_wide);
      transpose_keys(seen.own_k, kw, n, e, own_t, seen.own_wide);
      float* p = Scratch::room(s.scores, n * stride);
      const auto start = layout->start[row];
      for (std::int64_t h = j * repeat; h < (j + 1) * repeat; ++h) {
        against(pq + start * qw + h * e, qw, seen, prompt_t, own_t, e, p);
        active().softmax(n, stride, p, scale, seen.prompt, seen.prompt_wide, -1,
                         plse ? plse + start * heads.heads + h : nullptr, heads.heads);
        mixed(p, seen, seen.prompt_v, seen.own_v, kw, e, po + start * qw + h * e, qw);
      }
    });
  });
  if (graph) {
    auto node = new_node<AttentionNode>();
    node->q = q.detach();
    node->k = k.detach();
    node->v = v.detach();
    if (prompt_k.defined()) {
      node->prompt_k = prompt_k.detach();
      node->prompt_v = prompt_v.detach();
    }
    node->lse = lse;
    node->layout = layout;
    node->heads = heads;
    hang(out, node, q, k, v, prompt_k, prompt_v);
  }
  return out;
}

}  // namespace assay::train
