#include "trainer/model/aten.h"
#include "trainer/model/graph.h"
#include "trainer/model/live_rows.h"
#include "trainer/model/ops.h"
#include "trainer/model/product.h"

namespace assay::train {

using kernels::Packed;
using torch::autograd::variable_list;

namespace {

// The rows that are live in a. Of the others c is 0, or what it was where it is added to.
void live_product(const at::Tensor& a, const LiveRows& live, const Packed& b, at::Tensor& c, float alpha, bool accumulate) {
  product(a, b, c, alpha, {}, accumulate, live.pieces());
  if (!accumulate) live.clear_others(c);
}

// Inputs: x, weight, bias, lora a, lora b.
struct LinearNode : torch::autograd::Node {
  at::Tensor x, low;          // low: x·A^T [M, r]; undefined where the forward had no need of it
  BackwardForm weight, a, b;  // weight: with the low-rank part in it where that is not `apart`
  std::shared_ptr<const Packed> a_forward;
  std::optional<RoundedGradient> rounded;
  float scale = 1;
  bool apart = false;
  at::Tensor as_summed(const at::Tensor& dy, int axis) const {
    return rounded ? quant::quantize_gradient(dy, rounded->spec, rounded->seed, axis).contiguous() : dy;
  }
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    const LiveRows live(dy);
    at::Tensor dx, dweight, dbias, da, db;
    if (task_should_compute_output(0)) {
      dx = at::empty_like(x);
      if (weight) {
        const at::Tensor summed = as_summed(dy, 1);
        live_product(summed, rounded ? LiveRows(summed) : live, *weight.get(), dx, 1.f, false);
      } else {
        dx.zero_();
      }
    }
    if (task_should_compute_output(1)) {
      const at::Tensor summed = as_summed(dy, 0);
      dweight = outer_sum(summed, x, 1.f, rounded ? LiveRows(summed) : live);
    }
    if (task_should_compute_output(2)) dbias = dy.sum(0);
    if (b && (task_should_compute_output(3) || (dx.defined() && apart))) {
      at::Tensor dlow = at::empty({x.size(0), a_forward->n}, x.options());
      live_product(dy, live, *b.get(), dlow, scale, false);
      if (dx.defined() && apart) live_product(dlow, live, *a.get(), dx, 1.f, true);
      if (task_should_compute_output(3)) da = outer_sum(dlow, x, 1.f, live);
    }
    if (b && task_should_compute_output(4)) {
      at::Tensor now = low;
      if (!now.defined()) {  // of the live rows
        now = at::empty({x.size(0), a_forward->n}, x.options());
        product(x, *a_forward, now, 1.f, {}, false, live.pieces());
      }
      db = outer_sum(dy, now, scale, live);
    }
    return {dx, dweight, dbias, da, db};
  }
  std::string name() const override { return "LoraLinear"; }
  void release_variables() override {
    x = low = at::Tensor();
    weight = a = b = BackwardForm();
    a_forward = nullptr;
  }
};

at::Tensor linear_with(const at::Tensor& x, Matrix* weight, const at::Tensor& bias, LoraPair* lora,
                       const std::optional<RoundedGradient>& rounded, const Coded& coded) {
  const bool merged = weight && lora && Merged::pays(*weight, lora->a, lora->b);
  Matrix* whole = merged ? &lora->merged.of(*weight, lora->a, lora->b, lora->scale) : weight;
  at::Tensor y = at::empty({x.size(0), weight ? weight->out() : lora->b.out()}, x.options());
  TORCH_INTERNAL_ASSERT(!coded.x || !merged);
  if (coded.x) coded_product(x, *coded.x, *weight, *coded.weight, bias, y);
  else if (whole) product(x, *whole->forward_pack(), y, 1.f, bias, false);
  at::Tensor low;
  if (lora && !merged) {
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
    node->apart = !merged || rounded;
    if (weight && wants_graph(x)) node->weight = BackwardForm(node->apart ? *weight : *whole);
    if (lora) {
      node->a = BackwardForm(lora->a);
      node->b = BackwardForm(lora->b);
      node->low = low;
      node->a_forward = lora->a.forward_pack();
      node->scale = lora->scale;
    }
    hang(y, node, x, w, bias, a, b);
  }
  return y;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, Matrix& weight, const at::Tensor& bias, LoraPair* lora,
                  const std::optional<RoundedGradient>& rounded, const Coded& coded) {
  if (!by_kernels(x)) return aten::linear(x, weight, bias, lora, rounded);
  return linear_with(x, &weight, bias, lora, rounded, coded);
}

at::Tensor low_rank(const at::Tensor& x, LoraPair& lora) {
  return by_kernels(x) ? linear_with(x, nullptr, {}, &lora, std::nullopt, {}) : aten::low_rank(x, lora);
}

}  // namespace assay::train
