// The quantized linear layer: values and gradients against plain ATen operations, what has no gradient, the quantized
// backward, and what it holds in memory.
#include "quant/torch/linear.h"

#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>

#include "catch.h"
#include "heap.h"
#include "quant/hadamard.h"
#include "quant/torch/fake_quantize.h"

using namespace assay::quant;

namespace {

const Spec te{};
const Spec te_row{.scope = Scope::row};
const Spec rceil{.format = Format::mxfp4, .mode = Mode::rceil};

at::Tensor random(at::IntArrayRef sizes, std::uint64_t seed) {
  at::manual_seed(seed);
  return torch::randn(sizes);
}
bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         (a.numel() == 0 ||
          std::memcmp(a.contiguous().const_data_ptr(), b.contiguous().const_data_ptr(), a.nbytes()) == 0);
}
// Equal but for the order of fp32 sums: `magnitude` is the same product of absolute values.
bool close(const at::Tensor& a, const at::Tensor& b, const at::Tensor& magnitude) {
  return a.sizes() == b.sizes() && ((a - b).abs() <= magnitude.abs() * 1e-5 + 1e-30).all().item<bool>();
}
bool close(const at::Tensor& a, const at::Tensor& b) { return close(a, b, at::full_like(b, b.abs().max().item<double>())); }

struct Grads {
  at::Tensor y, x, weight, bias;
};
using Layer = std::function<at::Tensor(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b)>;
Grads run(const Layer& layer, const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, const at::Tensor& g) {
  const auto leaf = [](const at::Tensor& t) { return t.detach().clone().requires_grad_(); };
  const at::Tensor xs = leaf(x), ws = leaf(w), bs = leaf(b);
  const at::Tensor y = layer(xs, ws, bs);
  if (y.requires_grad()) y.backward(g);
  return {y.detach(), xs.grad(), ws.grad(), bs.grad()};
}
Layer ours(const LinearSpec& spec, std::uint64_t seed = 0) {
  return [=](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) { return linear(x, w, b, spec, seed); };
}
Layer ours_frozen(const LinearSpec& spec, std::uint64_t seed = 0) {
  return [=](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
    return FrozenLinear(w.detach(), spec)(x, b, seed);
  };
}
// The same of operations that LibTorch differentiates itself.
Layer graph(const LinearSpec& spec) {
  return [=](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
    const auto q = [&](const at::Tensor& t, const Spec& how, int axis) {
      return spec.ste ? fake_quantize_ste(t, how, axis) : fake_quantize(t, how, axis);
    };
    const at::Tensor in = spec.activation && !spec.post ? q(x, *spec.activation, 1) : x;
    const at::Tensor y = at::linear(in, spec.weight ? q(w, *spec.weight, spec.weight_axis) : w, b);
    return spec.activation && spec.post ? q(y, *spec.activation, 1) : y;
  };
}

struct Named {
  const char* name;
  LinearSpec spec;
};
std::vector<Named> specs() {
  return {
      {"W4A4", {.weight = te, .activation = te_row}},
      {"W4A4, columns", {.weight = te, .weight_axis = 0, .activation = te}},
      {"W4A4, tiles", {.weight = Spec{.tiles = true}, .activation = te}},
      {"W4A4, MXFP4", {.weight = rceil, .activation = rceil}},
      {"W4A4, mixed", {.weight = Spec{.mode = Mode::ct}, .activation = rceil}},
      {"W4A4, stochastic", {.weight = te, .activation = Spec{.rounding = Rounding::stochastic, .seed = 3}}},
      {"W4", {.weight = te}},
      {"A4", {.activation = te_row}},
      {"not quantized", {}},
  };
}

// Heap held after the forward, and the most held at once from the forward to the end of the backward, beyond what was
// held before.
struct Memory {
  std::int64_t kept = 0, peak = 0;
};
Memory measure(const std::function<at::Tensor()>& forward, const at::Tensor& g, const std::vector<at::Tensor>& leaves) {
  Memory memory;
  for (int round = 0; round < 2; ++round) {  // the first fills what libraries keep
    for (at::Tensor leaf : leaves) leaf.mutable_grad() = at::Tensor();
    const std::int64_t before = assay::test::heap_bytes();
    assay::test::start_heap_peak();
    at::Tensor y = forward();
    memory.kept = assay::test::heap_bytes() - before - static_cast<std::int64_t>(y.nbytes());
    y.backward(g);
    memory.peak = assay::test::heap_peak() - before;
  }
  return memory;
}

}  // namespace

TEST_CASE("values and gradients are those of the graph of plain operations") {
  const at::Tensor x = random({3, 35, 72}, 1), w = random({50, 72}, 2), b = random({50}, 3), g = random({3, 35, 50}, 4);
  for (const bool post : {false, true}) {
    for (auto [name, spec] : specs()) {
      spec.post = post;
      INFO(name << (post ? ", post" : ", pre"));
      const Grads mine = run(ours(spec), x, w, b, g), frozen = run(ours_frozen(spec), x, w, b, g);
      const Grads theirs = run(graph(spec), x, w, b, g);
      if (post && spec.activation) {
        // The products differ in their last bits, and what is quantized afterwards may fall on the other side.
        CHECK((mine.y - theirs.y).norm().item<double>() < .01 * theirs.y.norm().item<double>());
      } else {
        CHECK(close(mine.y, theirs.y));
      }
      CHECK(close(mine.x, theirs.x));
      CHECK(close(mine.weight, theirs.weight));
      CHECK(close(mine.bias, theirs.bias));
      CHECK(same(frozen.y, mine.y));
      CHECK(same(frozen.x, mine.x));
      CHECK(same(frozen.bias, mine.bias));
      CHECK_FALSE(frozen.weight.defined());
    }
  }
}

TEST_CASE("gradients by formula, in double, over more rows than a piece") {
  const LinearSpec spec{.weight = te, .activation = te_row};
  const at::Tensor x = random({1100, 64}, 5), w = random({130, 64}, 6), b = random({130}, 7), g = random({1100, 130}, 8);
  const Grads got = run(ours(spec), x, w, b, g);
  const auto exact = [](const at::Tensor& t) { return t.to(at::kDouble); };
  const at::Tensor xq = exact(fake_quantize(x, te_row, 1)), wq = exact(fake_quantize(w, te, 1)), gd = exact(g);
  CHECK(close(got.y, at::addmm(exact(b), xq, wq.t()), at::addmm(exact(b).abs(), xq.abs(), wq.abs().t())));
  CHECK(close(got.x, gd.mm(wq), gd.abs().mm(wq.abs())));
  CHECK(close(got.weight, gd.t().mm(xq), gd.abs().t().mm(xq.abs())));
  CHECK(close(got.bias, gd.sum(0), gd.abs().sum(0)));
}

TEST_CASE("without the estimator nothing flows through what is quantized") {
  const at::Tensor x = random({7, 48}, 9), w = random({11, 48}, 10), b = random({11}, 11), g = random({7, 11}, 12);
  LinearSpec spec{.weight = te, .activation = te_row, .ste = false};
  const at::Tensor with = run(ours({.weight = te, .activation = te_row}), x, w, b, g).y;
  for (const Layer& layer : {ours(spec), ours_frozen(spec)}) {
    const Grads pre = run(layer, x, w, b, g);
    CHECK(same(pre.y, with));
    CHECK_FALSE(pre.x.defined());
    CHECK_FALSE(pre.weight.defined());
    CHECK(close(pre.bias, g.sum(0)));
  }
  // A weight that is not quantized learns from the quantized input, and x gets nothing all the same.
  spec.weight.reset();
  const Grads plain = run(ours(spec), x, w, b, g);
  CHECK_FALSE(plain.x.defined());
  CHECK(close(plain.weight, g.t().mm(fake_quantize(x, te_row, 1))));
  // An input that is not quantized gets its gradient through the quantized weight.
  const Grads input = run(ours({.weight = te, .ste = false}), x, w, b, g);
  CHECK(close(input.x, g.mm(fake_quantize(w, te, 1))));
  CHECK_FALSE(input.weight.defined());

  spec = {.weight = te, .activation = te_row, .post = true, .ste = false};
  for (const Layer& layer : {ours(spec), ours_frozen(spec)}) {
    CHECK_FALSE(layer(x.clone().requires_grad_(), w.clone().requires_grad_(), b.clone().requires_grad_()).requires_grad());
  }
}

TEST_CASE("no graph where none is wanted") {
  const at::Tensor x = random({7, 48}, 13), w = random({11, 48}, 14);
  const LinearSpec spec{.weight = te, .activation = te_row};
  CHECK_FALSE(linear(x, w, {}, spec).requires_grad());
  const at::Tensor leaf = x.clone().requires_grad_();
  CHECK(linear(leaf, w, {}, spec).requires_grad());
  const at::NoGradGuard guard;
  CHECK_FALSE(linear(leaf, w, {}, spec).requires_grad());
}

TEST_CASE("strides do not matter to a linear layer") {
  const at::Tensor x = random({60, 6, 4}, 15), w = random({60, 20}, 16), g = random({20, 9}, 17);
  const LinearSpec spec{.weight = te, .activation = te_row};
  const at::Tensor xs = x.permute({1, 2, 0}), ws = w.t(), b = random({40}, 18).slice(0, 0, 40, 2);
  const at::Tensor gs = random({6, 4, 1}, 19).expand({6, 4, 20});
  const Grads strided = run(ours(spec), xs, ws, b, gs), plain = run(ours(spec), xs.contiguous(), ws.contiguous(), b.contiguous(), gs.contiguous());
  CHECK(same(linear(xs, ws, b, spec), linear(xs.contiguous(), ws.contiguous(), b.contiguous(), spec)));
  CHECK(same(strided.x, plain.x));
  CHECK(same(strided.weight, plain.weight));
}

TEST_CASE("the number of threads does not change a bit of a linear layer") {
  const int threads = at::get_num_threads();
  const at::Tensor x = random({1500, 200}, 20), w = random({230, 200}, 21), b = random({230}, 22), g = random({1500, 230}, 23);
  for (auto [name, spec] : specs()) {
    INFO(name);
    spec.gradient = GradientSpec{};
    for (const bool quantized : {false, true}) {
      if (!quantized) spec.gradient.reset();
      else spec.gradient = GradientSpec{};
      at::set_num_threads(1);
      const Grads one = run(ours(spec, 5), x, w, b, g);
      at::set_num_threads(2);
      const Grads two = run(ours(spec, 5), x, w, b, g);
      CHECK(same(one.y, two.y));
      CHECK(same(one.x, two.x));
      CHECK(same(one.weight, two.weight));
      CHECK(same(one.bias, two.bias));
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("nothing times something") {
  for (const auto& [name, spec] : specs()) {
    INFO(name);
    for (const auto& [m, in, out] : {std::tuple{0, 32, 16}, {5, 0, 16}, {5, 32, 0}, {0, 0, 0}}) {
      const at::Tensor b = random({out}, 24);
      for (const bool quantized : {false, true}) {
        LinearSpec with = spec;
        if (quantized) with.gradient = GradientSpec{};
        for (const Layer& layer : {ours(with), ours_frozen(with)}) {
          const Grads got = run(layer, random({m, in}, 25), random({out, in}, 26), b, random({m, out}, 27));
          CHECK(got.y.sizes() == at::IntArrayRef{m, out});
          if (in == 0) CHECK(same(got.y, b.expand({m, out})));
          CHECK(got.x.sizes() == at::IntArrayRef{m, in});
          CHECK(got.x.abs().sum().item<double>() == 0);
        }
      }
    }
  }
}

TEST_CASE("NaN and Inf: their rows are NaN, or what hw_saturate makes of them") {
  at::Tensor x = random({5, 64}, 28);
  x[1][3] = NAN;
  x[3][40] = -INFINITY;
  const at::Tensor w = random({20, 64}, 29);
  const LinearSpec propagate{.weight = te, .activation = te_row};
  const at::Tensor y = linear(x, w, {}, propagate);
  for (int row = 0; row < 5; ++row) {
    CHECK(y[row].isnan().all().item<bool>() == (row == 1 || row == 3));
    CHECK(y[row].isnan().any().item<bool>() == (row == 1 || row == 3));
  }
  LinearSpec saturate = propagate;
  saturate.activation->non_finite = NonFinite::hw_saturate;
  CHECK(close(linear(x, w, {}, saturate), at::linear(fake_quantize(x, *saturate.activation, 1), fake_quantize(w, te, 1))));
}

TEST_CASE("a gradient in FP4 is the gradient in the mean") {
  // Size 40 and 56 so that groups of 16 are padded.
  const at::Tensor x = random({56, 32}, 30), w = random({40, 32}, 31), b = random({40}, 32), g = random({56, 40}, 33) * 1e-3;
  struct Case {
    GradientSpec gradient;
    double bias;  // relative; what saturation leaves in the mean
  };
  for (const auto& [gradient, bias] : {Case{{Spec{.format = Format::mxfp4, .mode = Mode::rceil, .rounding = Rounding::stochastic}}, 0},
                                       Case{{Spec{.format = Format::mxfp4, .mode = Mode::rceil, .rounding = Rounding::stochastic}, false}, 0},
                                       Case{GradientSpec{}, .005},
                                       Case{GradientSpec{.hadamard = false}, .01}}) {
    INFO(name(gradient.spec.mode) << (gradient.hadamard ? ", Hadamard" : ""));
    const LinearSpec plain{.weight = te, .activation = te_row};
    LinearSpec spec = plain;
    spec.gradient = gradient;
    const Grads exact = run(ours(plain), x, w, b, g);
    constexpr int seeds = 400;
    at::Tensor mean_x = at::zeros_like(exact.x), mean_w = at::zeros_like(exact.weight);
    double single_x = 0, single_w = 0;
    const auto distance = [](const at::Tensor& a, const at::Tensor& e) { return ((a - e).norm() / e.norm()).item<double>(); };
    for (int seed = 0; seed < seeds; ++seed) {
      const Grads got = run(ours(spec, static_cast<std::uint64_t>(seed)), x, w, b, g);
      if (seed == 0) CHECK(same(got.bias, exact.bias));
      mean_x += got.x;
      mean_w += got.weight;
      single_x += distance(got.x, exact.x) / seeds;
      single_w += distance(got.weight, exact.weight) / seeds;
    }
    const double of_x = distance(mean_x / seeds, exact.x), of_w = distance(mean_w / seeds, exact.weight);
    std::printf("%s%s: relative error of one draw %.4f %.4f, of the mean of %d %.5f %.5f\n", name(gradient.spec.mode).data(),
                gradient.hadamard ? ", Hadamard" : "", single_x, single_w, seeds, of_x, of_w);
    // Independent draws: the mean's error is that of one draw / sqrt(400) = / 20.
    CHECK(single_x > .05);
    CHECK(of_x < 1.2 * single_x / 20 + bias);
    CHECK(of_w < 1.2 * single_w / 20 + bias);
  }
}

TEST_CASE("a gradient in FP4: what it is made of") {
  const at::Tensor g = random({64, 48}, 34);
  const GradientSpec bare{.hadamard = false};
  // Without the transform it is fake_quantize() along the summed axis.
  Spec spec = bare.spec;
  spec.seed = 2 * 7 + 1;
  CHECK(same(quantize_gradient(g, bare, 7, 1), fake_quantize(g, spec, 1)));
  spec.seed = 2 * 7;
  CHECK(same(quantize_gradient(g, bare, 7, 0), fake_quantize(g.t(), spec, 1).t()));
  for (const int axis : {0, 1}) {
    CHECK(same(quantize_gradient(g, {}, 7, axis), quantize_gradient(g, {}, 7, axis)));
    CHECK_FALSE(same(quantize_gradient(g, {}, 7, axis), quantize_gradient(g, {}, 8, axis)));
    CHECK(same(quantize_gradient(g.t().contiguous().t(), {}, 7, axis), quantize_gradient(g, {}, 7, axis)));
  }
  // With it, fake_quantize() of the transform, transformed back.
  const at::Tensor by_hand = g.clone();
  spec.seed = 2 * 7 + 1;
  float* data = by_hand.mutable_data_ptr<float>();
  hadamard16(data, data, 64, 48, hadamard_signs(spec.seed));
  by_hand.copy_(fake_quantize(by_hand, spec, 1));
  inverse_hadamard16(data, data, 64, 48, hadamard_signs(spec.seed));
  CHECK(same(quantize_gradient(g, {}, 7, 1), by_hand));
}

TEST_CASE("what a linear layer does not take is refused in a sentence") {
  const at::Tensor x = random({4, 32}, 35), w = random({8, 32}, 36), b = random({8}, 37);
  const auto refused = [](const auto& call, const std::string& words) {
    try {
      call();
    } catch (const c10::Error& error) {
      const std::string what = error.what_without_backtrace();
      INFO(what);
      CHECK(what.find(words) != std::string::npos);
      return;
    }
    FAIL("not refused: " << words);
  };
  const LinearSpec spec{.weight = te, .activation = te_row};
  refused([&] { linear(x.to(at::kBFloat16), w, b, spec); }, "the input is BFloat16");
  refused([&] { linear(x, w.to(at::kDouble), b, spec); }, "the weight is Double");
  refused([&] { linear(x.narrow(1, 0, 16), w, b, spec); }, "the input has 16 columns, the weight takes 32");
  refused([&] { linear(x, w, b.narrow(0, 0, 4), spec); }, "the bias has 4 elements");
  refused([&] { linear(x, w[0], b, spec); }, "the weight is [out, in]");
  refused([&] { linear(x, w, b, {.weight = te_row}); }, "a weight's scale is the tensor's");
  refused([&] { linear(x, w, b, {.activation = Spec{.tiles = true}}); }, "tiles are for weights");
  refused([&] { linear(x, w, b, {.weight = Spec{.mode = Mode::floor}}); }, "the mode belongs to the other format");
  refused([&] { linear(x, w, b, {.gradient = GradientSpec{te}}); }, "gradients are rounded stochastically");
  refused([&] { FrozenLinear(w, spec, false)(x.clone().requires_grad_()); }, "without its form for the backward");
  CHECK(same(FrozenLinear(w, spec, false)(x), linear(x, w, {}, spec)));

  const at::Tensor leaf = x.clone().requires_grad_();
  refused([&] { torch::autograd::grad({linear(leaf, w, b, spec).sum()}, {leaf}, {}, true, true); }, "no second derivative");
  // What was saved is the caller's tensor: a change of it before the backward is seen.
  at::Tensor weight = w.clone();
  const at::Tensor y = linear(leaf, weight, b, spec);
  weight.add_(1);
  refused([&] { y.sum().backward(); }, "modified by an inplace operation");
}

TEST_CASE("memory of forward and backward, against at::linear", "[memory]") {
  if (!assay::test::heap_is_counted()) {
    assay::test::report_skipped("peak memory", "the sanitizer's allocator is not counted");
    return;
  }
  struct Shape {
    std::int64_t m, k, n;
  };
  const LinearSpec spec{.weight = te, .activation = te_row};
  LinearSpec fp4 = spec;
  fp4.gradient = GradientSpec{};
  std::printf("%-18s %-26s %12s %12s\n", "M x K x N", "layer", "kept bytes", "peak bytes");
  for (const auto& [m, k, n] : {Shape{4096, 576, 1536}, Shape{512, 96, 240}}) {
    const at::Tensor x = random({m, k}, 38).requires_grad_(), g = random({m, n}, 39);
    at::Tensor frozen = random({n, k}, 40), trained = frozen.clone().requires_grad_();
    const FrozenLinear packed(frozen, spec), packed_fp4(frozen, fp4);
    const auto line = [&, m = m, k = k, n = n](const char* layer, const std::function<at::Tensor()>& forward, bool trains) {
      const Memory memory = measure(forward, g, trains ? std::vector{x, trained} : std::vector{x});
      char shape[64];
      std::snprintf(shape, sizeof shape, "%dx%dx%d", static_cast<int>(m), static_cast<int>(k), static_cast<int>(n));
      std::printf("%-18s %-26s %12lld %12lld\n", shape, layer, static_cast<long long>(memory.kept), static_cast<long long>(memory.peak));
      return memory;
    };
    const Memory plain = line("at::linear, W frozen", [&] { return at::linear(x, frozen); }, false);
    const Memory ours = line("FrozenLinear", [&] { return packed(x); }, false);
    const Memory ours_fp4 = line("FrozenLinear, FP4 grad", [&] { return packed_fp4(x); }, false);
    const Memory plain_trained = line("at::linear, W trained", [&] { return at::linear(x, trained); }, true);
    const Memory ours_trained = line("linear", [&] { return linear(x, trained, {}, spec); }, true);
    const Memory trained_fp4 = line("linear, FP4 grad", [&] { return linear(x, trained, {}, fp4, 1); }, true);
    // Nothing is kept but the graph's nodes.
    for (const Memory& one : {ours, ours_fp4, ours_trained, trained_fp4}) CHECK(one.kept < 4096);
    // Of the work: pieces of quantized x, the weight packed while it changes, and for an FP4 gradient two forms of g.
    const std::int64_t piece = 512 * k * 4 + 65536, weight = 2 * n * k * 4, gradient = (m + 16) * (n + 16) * 4;
    CHECK(ours.peak <= plain.peak + piece);
    CHECK(ours_fp4.peak <= plain.peak + piece + gradient);
    CHECK(ours_trained.peak <= plain_trained.peak + piece + weight);
    CHECK(trained_fp4.peak <= plain_trained.peak + piece + weight + gradient);
  }
}
