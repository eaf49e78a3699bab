// The decoder made of LibTorch's operations against the kernels', on the CPU: logits, log-probs, entropies, gradients of each
// adapter tensor, tokens. Both compute in fp32 and sum in different orders, so they differ by rounding: norm-wise within
// 1e-5 forward and 1e-4 backward (a few hundred roundings of 6e-8 each), which holds where nothing is quantized. A quantizer turns
// a difference in the last bit into one of a whole step where a value lies on the border between two codes; those cases are
// held to it with the second path's quantizer fed with the first's values.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "quant/torch/exact.h"
#include "quant/torch/fake_quantize.h"
#include "quant/torch/gradient.h"
#include "quant/torch/hadamard.h"
#include "tests/catch.h"
#include "tests/trainer/model/recorder.h"
#include "tests/trainer/model/tiny.h"
#include "trainer/cuda/loader.h"
#include "trainer/model/aten.h"
#include "trainer/model/projection.h"
#include "trainer/model/static_decode.h"
#include "trainer/rollout/static_sampler.h"

namespace assay::test {
namespace {

using namespace train;

constexpr double forward_tolerance = 1e-5, backward_tolerance = 1e-4;

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().to(at::kCPU, at::kDouble), y = b.detach().to(at::kCPU, at::kDouble);
  const double norm = y.norm().item<double>(), off = (x - y).norm().item<double>();
  return norm == 0 ? off : off / norm;
}

// Operations this small would spend their time waiting for each other's threads.
struct OneThread {
  OneThread() : before(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before); }
  int before;
};

Accelerator* gpu = nullptr;  // where made(…, true) puts a decoder; null: it stays on the CPU

struct Setup {
  ModelShape shape = tiny_shape();
  spec::QuantConfig quant;      // format none: no quantizers
  double dropout = 0;
  bool full = false, bf16 = false, noise = false, lean = false, entropy = false;
};

// The same weights, adapters and quantizers, on the path asked for.
Decoder made(const Setup& setup, bool aten) {
  Decoder decoder = tiny_decoder(setup.shape);
  if (setup.bf16) decoder.set_bf16();
  if (aten) decoder.set_aten();
  if (setup.lean) decoder.set_lean(true);
  if (!setup.full) attach_random_lora(decoder);
  if (setup.quant.format != "none") decoder.attach_quantizers(setup.quant, default_activation_quantizer(), 11);
  if (setup.full) decoder.set_base_trainable(true);
  if (setup.noise)
    decoder.set_norm_noise({{"model.layers.0.input_layernorm.weight", at::full({setup.shape.hidden}, 0.1)},
                            {"model.norm.weight", at::full({setup.shape.hidden}, -0.05)}},
                           true, true);
  if (aten && gpu) decoder.move_to(gpu);
  return decoder;
}

struct Pass {
  TokenLogprobs scored;
  std::vector<NamedTensor> gradients;
};

Pass pass(Decoder& decoder, const Setup& setup) {
  const Sequences prompts = random_sequences(3, 2, 21, 5), responses = random_sequences(6, 0, 19, 6);
  decoder.set_phase(Phase::training);
  decoder.set_rounding_seed(99);
  if (setup.dropout > 0) decoder.set_dropout(setup.dropout, 17);
  for (const NamedTensor& t : decoder.trainable()) t.tensor.mutable_grad() = at::Tensor();
  Pass pass{token_logprobs(decoder, prompts, responses, 2, 0.7, setup.entropy), {}};
  const at::Tensor weights =
      at::linspace(-1, 2, pass.scored.logprobs.numel()).view(pass.scored.logprobs.sizes()).to(decoder.device());
  at::Tensor loss = (pass.scored.logprobs * weights).sum();
  if (setup.entropy) loss = loss + 0.3 * (pass.scored.entropy * weights).sum();
  if (loss.requires_grad()) loss.backward();
  for (const NamedTensor& t : decoder.trainable())
    pass.gradients.push_back({t.name, t.tensor.grad().defined() ? t.tensor.grad().clone() : at::zeros_like(t.tensor)});
  return pass;
}

// With quantizers, the first path's results of each, in order, are what the second path's give: what is then compared is all the
// rest, at float's accuracy, and that the quantizers were given the same.
std::pair<Pass, Pass> both(const Setup& setup, double& seen_apart) {
  Decoder kernels = made(setup, false), aten = made(setup, true);
  std::vector<std::pair<at::Tensor, at::Tensor>> kept;
  const auto next = std::make_shared<std::size_t>(0);
  seen_apart = 0;
  const bool quantized = setup.quant.format != "none" && setup.quant.injection_point != "weight";
  if (quantized) {
    const ActivationQuantizer plain = default_activation_quantizer();
    kernels.exchange_quantizer([&kept, plain](const at::Tensor& x, const quant::Spec& spec, bool ste) {
      const at::Tensor y = plain(x, spec, ste);
      kept.emplace_back(x.detach().clone(), y.detach().clone());  // on the CPU
      return y;
    });
    aten.exchange_quantizer([&kept, &seen_apart, next, plain](const at::Tensor& x, const quant::Spec& spec, bool ste) {
      const at::Tensor seen = kept.at(*next).first, result = kept.at(*next).second.to(x.device());
      ++*next;
      seen_apart = std::max(seen_apart, distance(x.detach(), seen));
      const at::Tensor y = plain(x, spec, ste);
      return y.requires_grad() ? y + (result - y).detach() : result;
    });
  }
  std::pair<Pass, Pass> passes{pass(kernels, setup), {}};
  passes.second = pass(aten, setup);
  CHECK(*next == kept.size());
  CHECK(quantized == (*next > 0));
  return passes;
}

void agree(const Setup& setup, double forward = forward_tolerance, double backward = backward_tolerance) {
  double seen = 0;
  const auto [a, b] = both(setup, seen);
  CHECK(seen < forward);
  CHECK(distance(b.scored.logprobs, a.scored.logprobs) < forward);
  CHECK(distance(b.scored.entropy, a.scored.entropy) < forward);
  CHECK(b.scored.mask.to(at::kCPU).equal(a.scored.mask));
  REQUIRE(a.gradients.size() == b.gradients.size());
  bool any = false;
  for (std::size_t i = 0; i < a.gradients.size(); ++i) {
    INFO(a.gradients[i].name);
    REQUIRE(a.gradients[i].name == b.gradients[i].name);
    CHECK(distance(b.gradients[i].tensor, a.gradients[i].tensor) < backward);
    any = any || a.gradients[i].tensor.abs().max().item<double>() > 0;
  }
  CHECK(any);
}

// Same tokens, and log-probs of float's accuracy.
void same_rollout(const Rollout& a, const Rollout& b, double tolerance = forward_tolerance) {
  CHECK(a.responses == b.responses);
  CHECK(a.truncated == b.truncated);
  double off = 0, size = 0;
  REQUIRE(a.logprobs.size() == b.logprobs.size());
  for (std::size_t i = 0; i < a.logprobs.size(); ++i)
    for (std::size_t t = 0; t < a.logprobs[i].size(); ++t) {
      REQUIRE(b.logprobs[i].size() == a.logprobs[i].size());
      off += std::pow(a.logprobs[i][t] - b.logprobs[i][t], 2);
      size += std::pow(a.logprobs[i][t], 2);
    }
  CHECK((size > 0 && off <= tolerance * tolerance * size));
}

SamplerOptions sampling(std::int64_t group, std::int64_t tokens) {
  SamplerOptions options;
  options.samples_per_prompt = group;
  options.max_new_tokens = tokens;
  options.eos_ids = {0, 3, 5, 8};
  options.seed = 1234;
  options.first_row = 40;
  return options;
}

}  // namespace

TEST_CASE_METHOD(OneThread, "aten: logits of whole sequences", "[aten]") {
  for (const char* family : {"qwen2", "llama", "qwen3"}) {
    INFO(family);
    Setup setup;
    setup.shape = tiny_shape(family);
    setup.shape.qk_norm = setup.shape.family == "qwen3";
    Decoder kernels = made(setup, false), aten = made(setup, true);
    const at::Tensor ids = at::randint(1, 61, {4, 23}, generator(3), at::kLong), lengths = at::tensor({23, 1, 7, 16}, at::kLong);
    const at::NoGradGuard no_grad;
    CHECK(distance(aten.forward(ids, lengths), kernels.forward(ids, lengths)) < forward_tolerance);
  }
}

TEST_CASE_METHOD(OneThread, "aten: log-probs, entropies and gradients", "[aten]") {
  Setup setup;
  SECTION("adapters") {}
  SECTION("entropy with gradient") { setup.entropy = true; }
  SECTION("no bias, head of its own") { setup.shape = tiny_shape("llama"); }
  SECTION("norms of queries and keys") {
    setup.shape = tiny_shape("qwen3");
    setup.shape.qk_norm = true;
  }
  SECTION("noise") { setup.noise = true; }
  SECTION("dropout") { setup.dropout = 0.3; }
  SECTION("all weights") { setup.full = true; }
  SECTION("all weights, entropy with gradient") { setup.full = setup.entropy = true; }
  SECTION("lean") { setup.lean = true; }
  agree(setup);
}

TEST_CASE_METHOD(OneThread, "aten: quantized", "[aten]") {
  Setup setup;
  setup.shape.intermediate = 96;  // a multiple of 16, for the transform
  SECTION("pre-hook") { setup.quant = quant_config("pre", true); }
  SECTION("post-hook") { setup.quant = quant_config("post", true); }
  SECTION("pre-hook, no estimator") { setup.quant = quant_config("pre", false); }
  SECTION("scale per row") {
    setup.quant = quant_config("pre", true);
    setup.quant.tensor_scale = "row";
  }
  SECTION("MXFP4") { setup.quant = quant_config("pre", true, "mxfp4"); }
  SECTION("base layer too") {
    setup.quant = quant_config("pre", true);
    setup.quant.exclude = {};
  }
  SECTION("Hadamard") {
    setup.quant = quant_config("pre", true);
    setup.quant.hadamard = true;
  }
  SECTION("gradients in FP4") {
    setup.quant = quant_config("pre", true);
    setup.quant.injection_point = "weight";
    setup.quant.backward = "fp4";
    // The gradient's roundings are drawn from values that differ in the last bit, layer behind layer.
    return agree(setup, forward_tolerance, 0.5);
  }
  SECTION("stochastic") {
    setup.quant = quant_config("pre", true);
    setup.quant.rounding = "stochastic";
  }
  SECTION("weights only, lean, blocks down columns") {
    setup.quant = quant_config("pre", true);
    setup.quant.injection_point = "weight";
    setup.quant.blocking = "column";
    setup.lean = true;
  }
  SECTION("all weights") {
    setup.quant = quant_config("pre", true);
    setup.full = true;
  }
  agree(setup);
}

TEST_CASE_METHOD(OneThread, "aten: gradients quantized alike, of one layer", "[aten]") {
  // One product: the same gradient comes in on both paths, so the same roundings are drawn.
  const quant::GradientSpec spec{.spec = {.rounding = quant::Rounding::stochastic}, .hadamard = true};
  const at::Tensor x = at::randn({37, 32}, generator(1)), w = at::randn({48, 32}, generator(2)), dy = at::randn({37, 48}, generator(3)),
                   bias = at::randn({48}, generator(4));
  std::vector<std::vector<at::Tensor>> gradients;
  for (const bool forced : {false, true}) {
    const AtenScope scope(forced);
    Matrix weight(w.clone().requires_grad_(true));
    LoraPair lora{Matrix(at::randn({4, 32}, generator(5)).requires_grad_(true)), Matrix(at::randn({48, 4}, generator(6)).requires_grad_(true)),
                  0.5f};
    const at::Tensor input = x.clone().requires_grad_(true), b = bias.clone().requires_grad_(true);
    linear(input, weight, b, &lora, RoundedGradient{spec, 77}).backward(dy);
    gradients.push_back({input.grad(), weight.value().grad(), b.grad(), lora.a.value().grad(), lora.b.value().grad()});
  }
  for (std::size_t i = 0; i < gradients[0].size(); ++i) CHECK(distance(gradients[1][i], gradients[0][i]) < 1e-6);
}

TEST_CASE_METHOD(OneThread, "aten: bfloat16 between operations", "[aten]") {
  // A sum that differs in its last bit may round to the next bfloat16, 2^-8 away, and so on through the layers: the two paths
  // are as far from each other as each is from fp32, not closer.
  Setup setup;
  setup.bf16 = true;
  agree(setup, 3e-2, 3e-1);
  const at::Tensor x = at::randn({5, 64}, generator(2)).requires_grad_(true), y = at::randn({5, 64}, generator(3));
  std::vector<at::Tensor> made, gradients;
  for (const bool forced : {false, true}) {
    const AtenScope scope(forced);
    x.mutable_grad() = at::Tensor();
    made.push_back(bf16_rounded(x));
    made.back().backward(y);
    gradients.push_back(x.grad().clone());
  }
  CHECK(made[0].equal(made[1]));
  CHECK(gradients[0].equal(gradients[1]));
}

TEST_CASE_METHOD(OneThread, "aten: groups of different sizes, prompts without rows, empty responses", "[aten]") {
  Setup setup;
  Decoder kernels = made(setup, false), aten = made(setup, true);
  const Sequences prompts = random_sequences(4, 1, 20, 8), responses = {{1, 2, 3}, {}, {4}, {5, 6, 7, 8, 9}, {1}};
  std::vector<at::Tensor> hidden, gradients;
  for (Decoder* decoder : {&kernels, &aten}) {
    const PromptCache cache = decoder->prefill(rows_of(prompts));
    hidden.push_back(decoder->respond(cache, {2, 0, 2, 0, 3}, rows_of(responses)));
    for (const NamedTensor& t : decoder->trainable()) t.tensor.mutable_grad() = at::Tensor();
    (hidden.back() * at::linspace(-1, 1, hidden.back().numel()).view(hidden.back().sizes())).sum().backward();
    gradients.push_back(decoder->adapter()[0].tensor.grad().clone());
  }
  CHECK(distance(hidden[1], hidden[0]) < forward_tolerance);
  CHECK(distance(gradients[1], gradients[0]) < backward_tolerance);
}

TEST_CASE_METHOD(OneThread, "aten: responses of one token and of none, for which no token is computed behind the prompts", "[aten]") {
  Setup setup;
  setup.full = GENERATE(false, true);
  if (GENERATE(false, true)) setup.quant = quant_config("pre", true);
  const Sequences prompts = random_sequences(2, 3, 9, 8), responses = {{1}, {}, {4}, {7}};
  std::vector<TokenLogprobs> scored;
  std::vector<std::vector<NamedTensor>> gradients;
  for (const bool by_aten : {false, true}) {
    Decoder decoder = made(setup, by_aten);
    decoder.set_phase(Phase::training);
    scored.push_back(token_logprobs(decoder, prompts, responses, 2, 1.0));
    scored.back().logprobs.sum().backward();
    gradients.emplace_back();
    for (const NamedTensor& t : decoder.trainable())
      gradients.back().push_back({t.name, t.tensor.grad().defined() ? t.tensor.grad() : at::zeros_like(t.tensor)});
  }
  CHECK(distance(scored[1].logprobs, scored[0].logprobs) < forward_tolerance);
  for (std::size_t i = 0; i < gradients[0].size(); ++i) {
    INFO(gradients[0][i].name);
    CHECK(distance(gradients[1][i].tensor, gradients[0][i].tensor) < backward_tolerance);
  }
}

TEST_CASE_METHOD(OneThread, "aten: sampling draws the same tokens", "[aten]") {
  Setup setup;
  SamplerOptions options = sampling(4, 40);
  SECTION("temperature") { options.temperature = 1.3; }
  SECTION("greedy") { options.temperature = 0; }
  SECTION("top-k") { options.top_k = 7; }
  SECTION("top-p") { options.top_p = 0.8; }
  SECTION("min-p") { options.min_p = 0.1; }
  SECTION("all cuts, few rows at once") {
    options.top_k = 20;
    options.top_p = 0.9;
    options.min_p = 0.02;
    options.batch_size = 8;
  }
  SECTION("quantized weights, noise") {
    setup.quant = quant_config("pre", true);
    setup.quant.injection_point = "weight";
    setup.noise = true;
  }
  SECTION("one row") { options.samples_per_prompt = 1, options.batch_size = 1; }
  SECTION("no end") { options.eos_ids = {60}, options.max_new_tokens = 9; }
  Decoder kernels = made(setup, false), aten = made(setup, true);
  const Sequences prompts = random_sequences(5, 1, 20, 8);
  const Rollout expected = sample(kernels, prompts, options);
  same_rollout(sample(aten, prompts, options), expected);
  Recorder recorder;
  aten.move_to(&recorder);
  same_rollout(sample(aten, prompts, options), expected);
  CHECK(recorder.captures >= 1);
  CHECK(recorder.replays > 4);
}

TEST_CASE_METHOD(OneThread, "aten: a smaller graph is recorded when half of the rows have ended", "[aten]") {
  Setup setup;
  Decoder kernels = made(setup, false), aten = made(setup, true);
  Recorder recorder;
  aten.move_to(&recorder);
  SamplerOptions options = sampling(6, 100);
  const Sequences prompts = random_sequences(6, 1, 20, 8);
  same_rollout(sample(aten, prompts, options), sample(kernels, prompts, options));
  CHECK(recorder.captures >= 2);
}

TEST_CASE_METHOD(OneThread, "aten: rows that have ended do not change the scale of the others' activations", "[aten]") {
  Setup setup;
  setup.quant = quant_config("pre", true);  // scope tensor
  Decoder aten = made(setup, true);
  aten.set_phase(Phase::rollout);
  const Sequences prompts = random_sequences(2, 5, 9, 8);
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> hidden;
  for (const std::int64_t loud : {7, 33}) {
    const auto state = aten.begin_static_decode(aten.prefill(rows_of(prompts)), 2, 4);
    const at::Tensor ended = (at::tensor({0, 1, 0, 0}, at::kLong) > 0).unsqueeze(1);
    state->step(at::tensor({4L, loud, 9L, 2L}), ended);
    hidden.push_back(state->hidden().clone());
  }
  for (const int row : {0, 2, 3}) CHECK(hidden[0][row].equal(hidden[1][row]));
}

TEST_CASE_METHOD(OneThread, "aten: a W4A4 layer's exact product is the product of the quantized values", "[aten]") {
  Quantizers quantizers;
  quantizers.quantize = default_activation_quantizer();
  quantizers.ste = quantizers.in_training = true;
  if (GENERATE(false, true)) quantizers.activation.scope = quant::Scope::row;
  const bool on_base = GENERATE(false, true), trained = GENERATE(false, true);
  if (GENERATE(false, true)) quantizers.activation.rounding = quant::Rounding::stochastic;
  const at::Tensor w = at::randn({24, 48}, generator(3)), x0 = at::randn({10, 48}, generator(4)), dy = at::randn({10, 24}, generator(5));
  const auto use = std::make_shared<AdapterUse>();
  struct Result {
    at::Tensor y, dx, da, dw;
  };
  const auto run = [&](bool exact, double factor, ActivationQuantizer quantizer = default_activation_quantizer()) {
    Projection p;
    p.name = "p";
    p.weight = Matrix(w.clone().set_requires_grad(trained));
    const at::Tensor value = quantized_weight(w, quantizers, 7);
    p.quantized = trained ? Matrix(value, p.weight.value()) : Matrix(value);
    p.exact = exact_weight(w, quantizers, 7);
    p.exact.factor.mul_(factor);
    p.bias = at::randn({24}, generator(6));
    (on_base ? p.on_base : p.on_wrapper) = true;
    p.use = use;
    p.lora = std::make_unique<LoraPair>();
    p.lora->a = Matrix(at::randn({4, 48}, generator(8)).set_requires_grad(true));
    p.lora->b = Matrix(at::randn({24, 4}, generator(9)));
    quantizers.exact = exact;
    quantizers.quantize = std::move(quantizer);
    quantizers.restart(1);
    const AtenScope aten(true);
    Memo memo;
    const at::Tensor x = x0.clone().set_requires_grad(true);
    const at::Tensor y = p.forward(x, quantizers, memo);
    y.backward(dy);
    return Result{y.detach(), x.grad(), p.lora->a.value().grad(), p.weight.value().grad()};
  };
  const Result plain = run(false, 1), exact = run(true, 1), twice = run(true, 2);
  CHECK(distance(exact.y, plain.y) < 1e-6);
  CHECK(distance(twice.y, plain.y) > 0.1);  // the operand is what was multiplied
  CHECK(exact.dx.equal(plain.dx));          // backwards nothing is different
  CHECK(exact.da.equal(plain.da));
  CHECK(exact.dw.defined() == trained);
  if (trained) CHECK(exact.dw.equal(plain.dw));
  // Another quantizer's results are no codes and scales: its values are what is multiplied.
  const auto other = [](const at::Tensor& x, const quant::Spec&, bool) { return x * 0.5; };
  CHECK(run(true, 2, other).y.equal(run(false, 1, other).y));
}

TEST_CASE_METHOD(OneThread, "aten: which layers multiply codes", "[aten]") {
  Quantizers quantizers;
  CHECK(multiplies_codes(quantizers, true, true));
  CHECK_FALSE(multiplies_codes(quantizers, true, false));
  CHECK_FALSE(multiplies_codes(quantizers, false, true));
  Quantizers post, rotated, rounded;
  post.post = true;
  rotated.signs = 0x1234;
  rounded.bf16 = true;
  for (const Quantizers* other : {&post, &rotated, &rounded}) CHECK_FALSE(multiplies_codes(*other, true, true));
}

TEST_CASE_METHOD(OneThread, "aten: a W4A4 decoder with exact products is the one without, within sums", "[aten]") {
  Setup setup;
  setup.quant = quant_config("pre", true);
  setup.quant.tensor_scale = "row";
  setup.lean = GENERATE(false, true);
  Decoder plain = made(setup, true), exact = made(setup, true);
  Recorder recorder;
  exact.move_to(&recorder);
  const Sequences prompts = random_sequences(3, 2, 21, 5);
  const at::NoGradGuard no_grad;
  const at::Tensor a = plain.prefill(rows_of(prompts)).keys.front(), b = exact.prefill(rows_of(prompts)).keys.front();
  CHECK(distance(b, a) < 1e-6);   // of the first layer, whose inputs are the same
  CHECK_FALSE(b.equal(a));        // and whose products are not, but for their sums
}

TEST_CASE_METHOD(OneThread, "aten: the same on a GPU", "[aten][gpu]") {
  const OpenedGpu& opened = open_gpu();
  if (!opened.accelerator) {
    std::printf("SKIPPED: no GPU: %s\n", opened.missing.c_str());
    return;
  }
  struct Placed {
    explicit Placed(Accelerator* a) { gpu = a; }
    ~Placed() { gpu = nullptr; }
  } placed(opened.accelerator);
  SECTION("quantizers: the CPU's bits") {
    for (const char* format : {"nvfp4", "mxfp4"})
      for (const int axis : {0, 1})
        for (const auto rounding : {quant::Rounding::nearest_even, quant::Rounding::stochastic}) {
          quant::Spec spec;
          spec.format = *quant::parse_format(format);
          spec.mode = *quant::parse_mode(spec.format, spec::QuantConfig{}.mode);
          spec.rounding = rounding;
          spec.seed = 5;
          const at::Tensor x = at::randn({37, 96}, generator(1));
          CHECK(quant::fake_quantize(x.cuda(), spec, axis).cpu().equal(quant::fake_quantize(x, spec, axis)));
          CHECK(quant::fake_quantize(x.t().cuda(), spec, axis).cpu().equal(quant::fake_quantize(x.t(), spec, axis)));
        }
    const at::Tensor x = at::randn({37, 96}, generator(2));
    CHECK(quant::hadamard(x.cuda(), 0x1234).cpu().equal(quant::hadamard(x, 0x1234)));
    CHECK(quant::exact_product_error(opened.accelerator->device()) == 0);
    for (const auto scope : {quant::Scope::tensor, quant::Scope::row}) {
      const quant::Spec spec{.scope = scope};
      const at::Tensor w = at::randn({24, 96}, generator(4));
      const auto a = quant::exact_operand(x, spec), b = quant::exact_operand(w, {}), c = quant::exact_operand(x.cuda(), spec),
                 d = quant::exact_operand(w.cuda(), {});
      CHECK((c.elements.cpu().equal(a.elements) && c.factor.cpu().equal(a.factor)));
      CHECK((d.elements.cpu().equal(b.elements) && d.factor.cpu().equal(b.factor)));
      CHECK(distance(quant::exact_product(c, d), quant::exact_product(a, b)) < 1e-6);
    }
    const quant::GradientSpec gradient{.spec = {.rounding = quant::Rounding::stochastic}, .hadamard = true};
    for (const int axis : {0, 1})
      CHECK(quant::quantize_gradient(x.cuda(), gradient, 3, axis).cpu().equal(quant::quantize_gradient(x, gradient, 3, axis)));
  }
  SECTION("log-probs, entropies and gradients") {
    Setup setup;
    agree(setup);
    setup.entropy = setup.noise = true;
    agree(setup);
    setup.full = true;
    agree(setup);
    setup = {};
    setup.lean = true;
    setup.quant = quant_config("pre", true);
    agree(setup);
    setup.quant = quant_config("post", true);
    agree(setup);
  }
  SECTION("tokens, drawn in graphs") {
    Setup setup;
    Decoder kernels = made(setup, false), aten = made(setup, true);
    const Sequences prompts = random_sequences(6, 1, 20, 8);
    SamplerOptions options = sampling(6, 100);
    same_rollout(sample(aten, prompts, options), sample(kernels, prompts, options));
    options.top_k = 20, options.top_p = 0.9, options.min_p = 0.02;
    same_rollout(sample(aten, prompts, options), sample(kernels, prompts, options));
    options.temperature = 0;
    same_rollout(sample(aten, prompts, options), sample(kernels, prompts, options));
    CHECK(opened.accelerator->peak_memory_gb() > 0);
  }
}

TEST_CASE_METHOD(OneThread, "aten: a row that is not finite is said", "[aten]") {
  const at::Tensor logits = at::zeros({2, 5});
  logits[1][2] = NAN;
  SamplerOptions options;
  const Drawn drawn = draw_tokens(logits, at::full({2}, 0.5, at::kDouble), options);
  CHECK(std::isfinite(drawn.logprobs[0].item<float>()));
  CHECK_FALSE(std::isfinite(drawn.logprobs[1].item<float>()));
}

TEST_CASE_METHOD(OneThread, "aten: draws at the borders", "[aten]") {
  // Probabilities 1/4, 0, 1/2, 1/4 exactly.
  const at::Tensor logits = at::tensor({0.f, -INFINITY, std::log(2.f), 0.f}).expand({6, 4});
  const at::Tensor u = at::tensor({0.0, 0.2499999, 0.2500001, 0.7499999, 0.7500001, 0.9999999999}, at::kDouble);
  SamplerOptions options;
  CHECK(draw_tokens(logits, u, options).tokens.equal(at::tensor({0, 0, 2, 2, 3, 3}, at::kLong)));
  options.top_k = 2;  // 2, then 0: the lower id of the two that are alike
  CHECK(draw_tokens(logits, u, options).tokens.equal(at::tensor({2, 2, 2, 0, 0, 0}, at::kLong)));
}

}  // namespace assay::test
