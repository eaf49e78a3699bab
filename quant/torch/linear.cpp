#include "quant/torch/linear.h"

#include <torch/autograd.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/types.h>

#include <algorithm>

#include "quant/product/product.h"
#include "quant/torch/matrix.h"
#include "quant/torch/parallel.h"

namespace assay::quant {

struct FrozenLinear::State {
  LinearSpec spec;
  Weight forward;
  std::optional<Weight> backward;
};

namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Rows of x that are quantized at a time; a multiple of every block.
constexpr std::int64_t chunk = 512;
// Rows of dW that one thread computes at a time. Whatever the number of threads, the pieces are the same.
constexpr std::int64_t slice = 64;

void check(const at::Tensor& t, const char* what) {
  TORCH_CHECK(t.device().is_cpu() && t.layout() == at::kStrided && t.scalar_type() == at::kFloat, "quantized linear: ",
              what, " is ", t.scalar_type(), " on ", t.device(), ", only dense float32 on cpu is supported");
}

void check(const LinearSpec& spec, const at::Tensor& weight) {
  const std::string_view wrong = objection(spec);
  TORCH_CHECK(wrong.empty(), "quantized linear: ", wrong);
  check(weight, "the weight");
  TORCH_CHECK(weight.dim() == 2, "quantized linear: the weight is [out, in], not of ", weight.dim(), " dimensions");
}

// Memory of our own or the caller's, unit strides, no graph.
at::Tensor plain(const at::Tensor& t) { return t.detach().resolve_neg().contiguous(); }

bool quantizes_input(const LinearSpec& spec) { return spec.activation && !spec.post; }

Weight pack_forward(const LinearSpec& spec, const at::Tensor& weight) {
  const at::Tensor w = plain(weight);
  const float* data = w.const_data_ptr<float>();
  if (!spec.weight) return Weight(data, w.size(0), w.size(1), Use::forward);
  return Weight(*spec.weight, spec.weight_axis, data, w.size(0), w.size(1),
                quantizes_input(spec) ? Use::w4a4 : Use::forward);
}

Weight pack_backward(const LinearSpec& spec, const at::Tensor& weight) {
  const at::Tensor w = plain(weight);
  const float* data = w.const_data_ptr<float>();
  if (!spec.weight) return Weight(data, w.size(0), w.size(1), Use::backward);
  return Weight(*spec.weight, spec.weight_axis, data, w.size(0), w.size(1), Use::backward);
}

// f(first row, tensor [rows, in]) over pieces of x [M, in], as the product sees them: quantized in a pre-hook.
template <class F>
void over_pieces(const LinearSpec& spec, const at::Tensor& x, const F& f) {
  const std::int64_t m = x.size(0);
  if (!quantizes_input(spec)) {
    if (m > 0) f(0, x);
    return;
  }
  const ConstView all = *matrix_view(x);
  const float a = needs_tensor_max(*spec.activation) ? shared_finite_max(all) : 0;
  const at::Tensor made = at::empty({std::min(chunk, m), x.size(1)}, x.options());
  const View to = mutable_matrix_view(made);
  for (std::int64_t first = 0; first < m; first += chunk) {
    const std::int64_t rows = std::min(chunk, m - first);
    shared_fake_quantize_piece(*spec.activation, a, rows_of(all, first, first + rows), rows_of(to, 0, rows), 1, first);
    f(first, made.narrow(0, 0, rows));
  }
}

// y [M, out] of x [M, in].
at::Tensor product(const LinearSpec& spec, const Weight& w, const at::Tensor& x, const at::Tensor& bias) {
  const std::int64_t m = x.size(0);
  const at::Tensor y = at::empty({m, w.out()}, x.options());
  float* to = y.mutable_data_ptr<float>();
  const float* b = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  if (w.use() == Use::w4a4) {
    linear_w4a4(*spec.activation, w, x.const_data_ptr<float>(), m, to, b);
  } else {
    over_pieces(spec, x, [&](std::int64_t first, const at::Tensor& piece) {
      linear(w, piece.const_data_ptr<float>(), piece.size(0), to + first * w.out(), b);
    });
  }
  if (spec.activation && spec.post) {
    const View all = mutable_matrix_view(y);
    shared_fake_quantize(*spec.activation, as_const(all), all, 1);
  }
  return y;
}

// g^T x [out, in]: of g [M, out] and x [M, in], before its quantizer.
at::Tensor weight_gradient(const LinearSpec& spec, const at::Tensor& g, const at::Tensor& x) {
  const std::int64_t out = g.size(1);
  at::Tensor sum = at::zeros({out, x.size(1)}, x.options());
  over_pieces(spec, x, [&](std::int64_t first, const at::Tensor& piece) {
    const at::Tensor of_piece = g.narrow(0, first, piece.size(0));
    over_rows((out + slice - 1) / slice, 1, [&](std::int64_t begin, std::int64_t end) {
      const at::NoGradGuard no_grad;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t rows = std::min(slice, out - i * slice);
        sum.narrow(0, i * slice, rows).addmm_(of_piece.narrow(1, i * slice, rows).t(), piece);
      }
    });
  });
  return sum;
}

// Of x [..., in].
std::int64_t row_count(at::IntArrayRef sizes) { return c10::multiply_integers(sizes.begin(), sizes.end() - 1); }

// Inputs: x, weight, bias.
struct LinearNode : torch::autograd::Node {
  LinearSpec spec;
  std::uint64_t seed = 0;
  SavedVariable x, weight;
  at::DimVector x_sizes;
  std::shared_ptr<const FrozenLinear::State> frozen;

  variable_list apply(variable_list&& grads) override {
    TORCH_CHECK(!at::GradMode::is_enabled(), "quantized linear: there is no second derivative");
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    const std::int64_t m = row_count(x_sizes);
    const at::Tensor g = plain(grads[0]).view({m, grads[0].size(-1)});
    variable_list result(3);
    if (task_should_compute_output(0)) result[0] = input_gradient(seen(g, 1));
    if (task_should_compute_output(1)) {
      result[1] = weight_gradient(spec, seen(g, 0), plain(x.unpack()).view({m, x_sizes.back()}));
    }
    if (task_should_compute_output(2)) result[2] = g.sum(0);
    return result;
  }
  std::string name() const override { return "QuantizedLinear"; }
  void release_variables() override {
    x.reset_data();
    weight.reset_data();
  }

 private:
  // g as the product that sums over `axis` gets to see it.
  at::Tensor seen(const at::Tensor& g, int axis) const {
    return spec.gradient ? quantize_gradient(g, *spec.gradient, seed, axis) : g;
  }
  at::Tensor input_gradient(const at::Tensor& g) {
    const auto multiply = [&](const Weight& w) {
      const at::Tensor from = g.contiguous(), to = at::empty(x_sizes, g.options());
      linear(w, from.const_data_ptr<float>(), g.size(0), to.mutable_data_ptr<float>());
      return to;
    };
    return frozen ? multiply(*frozen->backward) : multiply(pack_backward(spec, weight.unpack()));
  }
};

// `weight` is undefined where `frozen` is given.
at::Tensor apply(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const LinearSpec& spec,
                 std::uint64_t seed, std::shared_ptr<const FrozenLinear::State> frozen) {
  const std::int64_t out = frozen ? frozen->forward.out() : weight.size(0);
  const std::int64_t in = frozen ? frozen->forward.in() : weight.size(1);
  check(x, "the input");
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == in, "quantized linear: the input has ", x.dim() > 0 ? x.size(-1) : 1,
              " columns, the weight takes ", in);
  if (bias.defined()) {
    check(bias, "the bias");
    TORCH_CHECK(bias.dim() == 1 && bias.size(0) == out, "quantized linear: the bias has ", bias.numel(),
                " elements, the weight ", out, " rows");
  }
  const auto wants = [](const at::Tensor& t) { return at::GradMode::is_enabled() && t.defined() && t.requires_grad(); };
  const bool through = spec.ste || !spec.activation;  // the activation's quantizer
  const bool any = !spec.post || through;
  const bool of_x = wants(x) && through, of_bias = wants(bias) && any;
  const bool of_weight = wants(weight) && any && (spec.ste || !spec.weight);
  TORCH_CHECK(!of_x || !frozen || frozen->backward,
              "quantized linear: the weight was packed without its form for the backward");

  at::DimVector sizes(x.sizes().begin(), x.sizes().end());
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor from = plain(x), b = bias.defined() ? plain(bias) : bias;
    const at::Tensor rows = from.view({row_count(x.sizes()), in});
    y = frozen ? product(spec, frozen->forward, rows, b) : product(spec, pack_forward(spec, weight), rows, b);
    sizes.back() = out;
    y = y.view(sizes);
  }
  if (of_x || of_weight || of_bias) {
    const auto node = std::shared_ptr<LinearNode>(new LinearNode(), torch::autograd::deleteNode);
    const at::Tensor none;
    node->set_next_edges(torch::autograd::collect_next_edges(of_x ? x : none, of_weight ? weight : none,
                                                             of_bias ? bias : none));
    node->spec = spec;
    node->seed = seed;
    node->x_sizes = at::DimVector(x.sizes().begin(), x.sizes().end());
    if (of_weight) node->x = SavedVariable(x, false);
    if (of_x && !frozen) node->weight = SavedVariable(weight, false);
    node->frozen = std::move(frozen);
    torch::autograd::set_history(y, node);
  }
  return y;
}

}  // namespace

std::string_view objection(const LinearSpec& spec) {
  if (spec.weight_axis != 0 && spec.weight_axis != 1) return "the axis is 0 or 1";
  if (spec.weight) {
    if (spec.weight->scope == Scope::row) return "a weight's scale is the tensor's: its backward sums over rows";
    if (const auto wrong = objection(*spec.weight, spec.weight_axis); !wrong.empty()) return wrong;
  }
  if (spec.activation) {
    if (spec.activation->tiles) return "16x16 tiles are for weights";
    if (const auto wrong = objection(*spec.activation, 1); !wrong.empty()) return wrong;
  }
  return spec.gradient ? objection(*spec.gradient) : "";
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const LinearSpec& spec,
                  std::uint64_t seed) {
  check(spec, weight);
  return apply(x, weight, bias, spec, seed, nullptr);
}

FrozenLinear::FrozenLinear(const at::Tensor& weight, const LinearSpec& spec, bool backward) {
  check(spec, weight);
  const at::NoGradGuard no_grad;
  state_ = std::make_shared<State>(State{spec, pack_forward(spec, weight),
                                         backward ? std::optional(pack_backward(spec, weight)) : std::nullopt});
}

at::Tensor FrozenLinear::operator()(const at::Tensor& x, const at::Tensor& bias, std::uint64_t seed) const {
  return apply(x, {}, bias, state_->spec, seed, state_);
}

const LinearSpec& FrozenLinear::spec() const { return state_->spec; }
std::string FrozenLinear::implementation() const { return state_->forward.implementation(); }

}  // namespace assay::quant
