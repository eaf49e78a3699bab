#include "trainer/model/ops.h"

#include <bit>
#include <cmath>

#include "trainer/model/aten.h"
#include "trainer/model/graph.h"

namespace assay::train {

using kernels::active;
using kernels::Packed;
using torch::autograd::variable_list;

// ---- Matrix ----

namespace {

// The packed form of B = W from that of B = W^T: whole 16 x 16 blocks, turned.
std::shared_ptr<const Packed> turned(const Packed& from) {
  constexpr auto panel = kernels::panel;
  auto to = std::make_shared<Packed>();
  to->k = from.n;
  to->n = from.k;
  const std::int64_t panels = kernels::round_up(to->n, panel) / panel;
  to->data.resize(static_cast<std::size_t>(panels * panel * to->k));
  const float* source = from.data.data();
  float* out = to->data.data();
  over_rows(panels, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)      // columns 16 p .. of the new form: rows k of the old one
      for (std::int64_t n = 0; n < to->k; ++n)
        for (std::int64_t j = 0; j < panel; ++j) {
          const std::int64_t k = p * panel + j;
          out[(p * to->k + n) * panel + j] =
              k < from.k ? source[((n / panel) * from.k + k) * panel + n % panel] : 0.f;
        }
  });
  return to;
}

}  // namespace

void Matrix::keep_forward_only() {
  if (lean_) return;
  TORCH_INTERNAL_ASSERT(!value_.requires_grad());
  forward_pack();
  backward_.reset();
  value_ = at::Tensor();
  lean_ = true;
}

Matrix Matrix::on(const at::Device& device) const {
  if (!value_.defined()) return {};
  const auto moved = [&](const at::Tensor& tensor) { return tensor.detach().to(device).requires_grad_(tensor.requires_grad()); };
  return master_.defined() ? Matrix(moved(value_), moved(master_)) : Matrix(moved(value_));
}

BackwardForm::BackwardForm(Matrix& matrix) {
  (matrix.lean() ? forward_ : ready_) = matrix.lean() ? matrix.forward_pack() : matrix.backward_pack();
}

std::shared_ptr<const Packed> BackwardForm::get() const { return ready_ ? ready_ : turned(*forward_); }

std::shared_ptr<const Packed> Matrix::forward_pack() {
  if (lean_) return forward_;
  if (!forward_ || forward_version_ != value_._version()) {
    auto packed = std::make_shared<Packed>();
    pack(*packed, data(value_), in(), out(), 1, in());
    forward_version_ = static_cast<std::uint32_t>(value_._version());
    forward_ = std::move(packed);
  }
  return forward_;
}

std::shared_ptr<const Packed> Matrix::backward_pack() {
  if (lean_) return turned(*forward_);
  if (!backward_ || backward_version_ != value_._version()) {
    auto packed = std::make_shared<Packed>();
    pack(*packed, data(value_), out(), in(), in(), 1);
    backward_version_ = static_cast<std::uint32_t>(value_._version());
    backward_ = std::move(packed);
  }
  return backward_;
}

void Matrix::refresh() {
  if (lean_) return;
  forward_.reset();
  backward_.reset();
}

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

// ---- linear ----

namespace {

void product(const at::Tensor& a, const Packed& b, at::Tensor& c, float alpha, const at::Tensor& bias,
             bool accumulate) {
  const float *pa = data(a), *pb = bias.defined() ? data(bias) : nullptr;
  float* pc = mutable_data(c);
  const std::int64_t lda = a.size(1), ldc = c.size(1);
  const std::int64_t m = a.size(0), panels = (b.n + kernels::panel - 1) / kernels::panel;
  // A thread's rows are a block that stays in its cache while the panels pass. Too few for that, as in decoding, and
  // each takes some of the panels instead: 1/8 of a millisecond's work at least.
  if (m < 2 * row_grain) {
    const std::int64_t grain = std::max<std::int64_t>(1, (1 << 21) / std::max<std::int64_t>(1, m * b.k * kernels::panel));
    over_rows(panels, grain, [&](std::int64_t from, std::int64_t to) {
      active().gemm_packed(m, pa, lda, 1, b, from * kernels::panel, std::min(b.n, to * kernels::panel), pc, ldc, alpha, pb,
                           accumulate);
    });
    return;
  }
  over_rows(m, row_grain, [&](std::int64_t from, std::int64_t to) {
    active().gemm_packed(to - from, pa + from * lda, lda, 1, b, 0, b.n, pc + from * ldc, ldc, alpha, pb, accumulate);
  });
}

// u^T·x: u [M, p], x [M, q] -> [p, q], summed over tokens in order.
at::Tensor outer_sum(const at::Tensor& u, const at::Tensor& x, float alpha) {
  const std::int64_t m = u.size(0), p = u.size(1), q = x.size(1);
  at::Tensor result = at::empty({p, q}, x.options());
  const float *pu = data(u), *px = data(x);
  float* to = mutable_data(result);
  over_rows((q + kernels::panel - 1) / kernels::panel, 1, [&](std::int64_t from, std::int64_t end) {
    const std::int64_t n0 = from * kernels::panel, n1 = std::min(q, end * kernels::panel);
    active().gemm(p, n1 - n0, m, pu, 1, p, px + n0, q, to + n0, q, alpha, false);
  });
  return result;
}

// Inputs: x, weight, bias, lora a, lora b.
struct LinearNode : torch::autograd::Node {
  at::Tensor x, low;  // low = x·A^T [M, r]
  BackwardForm weight, a, b;
  std::optional<RoundedGradient> rounded;
  float scale = 1;
  at::Tensor as_summed(const at::Tensor& dy, int axis) const {
    return rounded ? quant::quantize_gradient(dy, rounded->spec, rounded->seed, axis).contiguous() : dy;
  }
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx, dweight, dbias, da, db;
    if (task_should_compute_output(0)) {
      dx = at::empty_like(x);
      if (weight)
        product(as_summed(dy, 1), *weight.get(), dx, 1.f, {}, false);
      else
        dx.zero_();
    }
    if (task_should_compute_output(1)) dweight = outer_sum(as_summed(dy, 0), x, 1.f);
    if (task_should_compute_output(2)) dbias = dy.sum(0);
    if (b) {
      at::Tensor dlow = at::empty_like(low);
      product(dy, *b.get(), dlow, scale, {}, false);
      if (dx.defined()) product(dlow, *a.get(), dx, 1.f, {}, true);
      if (task_should_compute_output(3)) da = outer_sum(dlow, x, 1.f);
      if (task_should_compute_output(4)) db = outer_sum(dy, low, scale);
    }
    return {dx, dweight, dbias, da, db};
  }
  std::string name() const override { return "LoraLinear"; }
  void release_variables() override {
    x = low = at::Tensor();
    weight = a = b = BackwardForm();
  }
};

at::Tensor linear_with(const at::Tensor& x, Matrix* weight, const at::Tensor& bias, LoraPair* lora,
                       const std::optional<RoundedGradient>& rounded) {
  const std::int64_t out = weight ? weight->out() : lora->b.out();
  at::Tensor y = at::empty({x.size(0), out}, x.options());
  if (weight) product(x, *weight->forward_pack(), y, 1.f, bias, false);
  at::Tensor low;
  if (lora) {
    low = at::empty({x.size(0), lora->a.out()}, x.options());
    product(x, *lora->a.forward_pack(), low, 1.f, {}, false);
    product(low, *lora->b.forward_pack(), y, lora->scale, {}, weight != nullptr);
  }
  const at::Tensor none;
  const at::Tensor& w = weight ? weight->leaf() : none;
  const at::Tensor& a = lora ? lora->a.value() : none;
  const at::Tensor& b = lora ? lora->b.value() : none;
  if (any_wants_graph(x, w, bias, a, b)) {
    auto node = new_node<LinearNode>();
    node->x = x.detach();
    node->rounded = rounded;
    if (weight && wants_graph(x)) node->weight = BackwardForm(*weight);
    if (lora) {
      node->low = low;
      node->a = BackwardForm(lora->a);
      node->b = BackwardForm(lora->b);
      node->scale = lora->scale;
    }
    hang(y, node, x, w, bias, a, b);
  }
  return y;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, Matrix& weight, const at::Tensor& bias, LoraPair* lora,
                  const std::optional<RoundedGradient>& rounded) {
  if (!by_kernels(x)) return aten::linear(x, weight, bias, lora, rounded);
  return linear_with(x, &weight, bias, lora, rounded);
}

at::Tensor low_rank(const at::Tensor& x, LoraPair& lora) {
  return by_kernels(x) ? linear_with(x, nullptr, {}, &lora, std::nullopt) : aten::low_rank(x, lora);
}

}  // namespace assay::train
