#include "trainer/model/ops.h"

#include <bit>
#include <cmath>

#include "trainer/model/aten.h"
#include "trainer/model/graph.h"

namespace assay::train {

using kernels::active;
using torch::autograd::variable_list;

// ---- RMS norm ----

namespace {

constexpr std::int64_t row_grain = 96;

struct RmsNormNode : torch::autograd::Node {
  at::Tensor x, w, inv;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(x), dw;
    const std::int64_t m = x.size(0), d = x.size(1);
    if (task_should_compute_output(1)) {
      dw = at::zeros_like(w);  // one thread: rows are added up in order
      active().rms_norm_backward(m, d, data(x), data(w), data(inv), data(dy), mutable_data(dx), mutable_data(dw));
    } else {
      const float *px = data(x), *pw = data(w), *pi = data(inv), *pdy = data(dy);
      float* pdx = mutable_data(dx);
      over_rows(m, row_grain, [&](std::int64_t b, std::int64_t e) {
        active().rms_norm_backward(e - b, d, px + b * d, pw, pi + b, pdy + b * d, pdx + b * d, nullptr);
      });
    }
    return {dx, dw};
  }
  std::string name() const override { return "RmsNorm"; }
  void release_variables() override { x = w = inv = at::Tensor(); }
};

struct SwigluNode : torch::autograd::Node {
  at::Tensor gate, up;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    const float *pg = data(gate), *pu = data(up), *pdy = data(dy);
    float *pdg = mutable_data(dgate), *pdu = mutable_data(dup);
    over_rows(gate.numel(), 1 << 14, [&](std::int64_t b, std::int64_t e) {
      active().swiglu_backward(e - b, pg + b, pu + b, pdy + b, pdg + b, pdu + b);
    });
    return {dgate, dup};
  }
  std::string name() const override { return "SwiGlu"; }
  void release_variables() override { gate = up = at::Tensor(); }
};

// Nearest, ties to even; NaN stays NaN, and what is beyond the largest bfloat16 becomes infinite.
void round_to_bf16(const float* from, float* to, std::int64_t n) {
  over_rows(n, 1 << 15, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(from[i]);
      const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
      to[i] = from[i] == from[i] ? std::bit_cast<float>(rounded) : from[i];
    }
  });
}

struct Bf16Node : torch::autograd::Node {
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(dy);
    round_to_bf16(data(dy), mutable_data(dx), dy.numel());
    return {dx};
  }
  std::string name() const override { return "Bf16Rounded"; }
};

struct RotateNode : torch::autograd::Node {
  at::Tensor cosine, sine;
  std::shared_ptr<const std::vector<std::int32_t>> positions;
  std::int64_t heads = 0;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(dy);
    const std::int64_t width = dy.size(1);
    const float *pdy = data(dy), *c = data(cosine), *s = data(sine);
    float* pdx = mutable_data(dx);
    over_rows(dy.size(0), row_grain, [&](std::int64_t b, std::int64_t e) {
      active().rope(e - b, heads, width / heads, pdy + b * width, c, s, positions->data() + b, -1.f, pdx + b * width);
    });
    return {dx};
  }
  std::string name() const override { return "Rotate"; }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps) {
  if (!by_kernels(x)) return aten::rms_norm(x, w, eps);
  const std::int64_t m = x.size(0), d = x.size(1);
  at::Tensor y = at::empty_like(x);
  const bool graph = any_wants_graph(x, w);
  at::Tensor inv = graph ? at::empty({m}, x.options()) : at::Tensor();
  const float *px = data(x), *pw = data(w);
  float *py = mutable_data(y), *pi = graph ? mutable_data(inv) : nullptr;
  over_rows(m, row_grain, [&](std::int64_t b, std::int64_t e) {
    active().rms_norm(e - b, d, px + b * d, pw, static_cast<float>(eps), py + b * d, pi ? pi + b : nullptr);
  });
  if (graph) {
    auto node = new_node<RmsNormNode>();
    node->x = x.detach();
    node->w = w.detach();
    node->inv = inv;
    hang(y, node, x, w);
  }
  return y;
}

at::Tensor bf16_rounded(const at::Tensor& x) {
  if (!by_kernels(x)) return aten::bf16_rounded(x);
  at::Tensor y = at::empty_like(x);
  round_to_bf16(data(x), mutable_data(y), x.numel());
  if (any_wants_graph(x)) hang(y, new_node<Bf16Node>(), x);
  return y;
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  if (!by_kernels(gate)) return aten::swiglu(gate, up);
  at::Tensor y = at::empty_like(gate);
  const float *pg = data(gate), *pu = data(up);
  float* py = mutable_data(y);
  over_rows(gate.numel(), 1 << 14,
            [&](std::int64_t b, std::int64_t e) { active().swiglu(e - b, pg + b, pu + b, py + b); });
  if (any_wants_graph(gate, up)) {
    auto node = new_node<SwigluNode>();
    node->gate = gate.detach();
    node->up = up.detach();
    hang(y, node, gate, up);
  }
  return y;
}

namespace {

// transformers' modeling_rope_utils computes these in float32, and so does this.
at::Tensor scaled(const at::Tensor& frequency, const RopeScaling& scaling) {
  if (scaling.type == "linear") return frequency / scaling.factor;
  if (scaling.type != "llama3") return frequency;
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor, original = scaling.original_positions;
  const at::Tensor wavelength = 2 * M_PI / frequency;
  const at::Tensor divided = frequency / scaling.factor;
  const at::Tensor blend = (original / wavelength - low) / (high - low);
  const at::Tensor between = (1 - blend) * divided + blend * frequency;
  const at::Tensor upper = at::where(wavelength > original / low, divided, between);
  return at::where(wavelength < original / high, frequency, upper);
}

}  // namespace

void Rope::cover(std::int64_t positions) {
  if (cosine_.defined() && cosine_.size(0) >= positions) return;
  const at::NoGradGuard no_grad;
  const std::int64_t size = std::max<std::int64_t>(positions, cosine_.defined() ? 2 * cosine_.size(0) : 256);
  const at::Tensor exponent = at::arange(0, head_size_, 2, at::kFloat) / static_cast<double>(head_size_);
  const at::Tensor frequency = scaled(at::reciprocal(at::pow(theta_, exponent)), scaling_);
  const at::Tensor angle = at::arange(size, at::kFloat).unsqueeze(1) * frequency.unsqueeze(0);
  cosine_ = angle.cos().contiguous().to(device_);
  sine_ = angle.sin().contiguous().to(device_);
}

at::Tensor rotate(const at::Tensor& x, std::int64_t heads, const Rope& rope, const Positions& positions) {
  if (positions.cosine.defined()) return aten::rotate(x, heads, positions.cosine, positions.sine);
  return rotate(x, heads, rope, positions.host);
}

at::Tensor rotate(const at::Tensor& x, std::int64_t heads, const Rope& rope,
                  const std::shared_ptr<const std::vector<std::int32_t>>& positions) {
  at::Tensor y = at::empty_like(x);
  const std::int64_t width = x.size(1);
  const float *px = data(x), *c = rope.cosine(), *s = rope.sine();
  float* py = mutable_data(y);
  over_rows(x.size(0), row_grain, [&](std::int64_t b, std::int64_t e) {
    active().rope(e - b, heads, width / heads, px + b * width, c, s, positions->data() + b, 1.f, py + b * width);
  });
  if (any_wants_graph(x)) {
    auto node = new_node<RotateNode>();
    node->cosine = rope.cosine_tensor();
    node->sine = rope.sine_tensor();
    node->positions = positions;
    node->heads = heads;
    hang(y, node, x);
  }
  return y;
}

}  // namespace assay::train
