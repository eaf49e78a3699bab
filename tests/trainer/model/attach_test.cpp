// Quantizers by rule: which modules, and which adapters are left with a gradient.
#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <map>
#include <set>

#include "catch.h"
#include "experiments/spec/modules.h"
#include "quant/hadamard.h"
#include "quant/torch/fake_quantize.h"
#include "quant/torch/hadamard.h"
#include "tests/trainer/model/tiny.h"

using namespace assay;
using namespace assay::train;

namespace {

AttachReport attached(const spec::QuantConfig& quant, std::int64_t layers = 2, bool lora = true) {
  Decoder decoder = test::tiny_decoder(test::tiny_shape("qwen2", layers));
  if (lora) decoder.attach_lora(test::lora_config(), 1);
  return decoder.attach_quantizers(quant);
}

// Names of the adapter tensors that get a gradient that is not all zero; "no graph" when the loss has none.
std::set<std::string> reached(Decoder& decoder) {
  const TokenLogprobs scored = token_logprobs(decoder, test::random_sequences(3, 3, 9, 1),
                                              test::random_sequences(6, 2, 9, 2), 2, 1.0);
  if (!scored.logprobs.requires_grad()) return {"no graph"};
  std::vector<at::Tensor> leaves;
  for (const auto& t : decoder.adapter()) leaves.push_back(t.tensor);
  const auto gradients = torch::autograd::grad({scored.logprobs.sum()}, leaves, {}, {}, false, true);
  std::set<std::string> names;
  for (std::size_t i = 0; i < leaves.size(); ++i)
    if (gradients[i].defined() && gradients[i].abs().sum().item<double>() > 0) names.insert(decoder.adapter()[i].name);
  return names;
}

std::set<std::string> coverage(const spec::QuantConfig& quant) {
  Decoder decoder = test::tiny_decoder();
  test::attach_random_lora(decoder);
  decoder.attach_quantizers(quant);
  return reached(decoder);
}

}  // namespace

TEST_CASE("every projection twice with LoRA, once without; the exclusions of the published recipe") {
  spec::QuantConfig quant = test::quant_config("pre", true);
  AttachReport both = attached(quant);
  CHECK(both.modules.size() == 28);
  CHECK(both.projections == 14);
  CHECK(both.twice.size() == 14);
  CHECK(both.modules[0].name == "model.layers.0.self_attn.q_proj");
  CHECK(both.modules[1].name == "model.layers.0.self_attn.q_proj.base_layer");
  CHECK(both.modules[0].weight_sqnr_db > 10);

  quant.exclude = {"^.*\\.base_layer$"};
  AttachReport wrappers = attached(quant);
  CHECK(wrappers.modules.size() == 14);
  CHECK(wrappers.twice.empty());
  CHECK(wrappers.modules[0].weight);
  CHECK(attached(quant, 2, false).modules.size() == 14);

  quant.exclude = {"^model\\.layers\\.(0|27)\\..*$"};
  CHECK(attached(quant, 28).modules.size() == 364);
  quant.exclude.push_back("^.*\\.base_layer$");
  AttachReport published = attached(quant, 28);
  CHECK(published.modules.size() == 182);
  CHECK(published.projections == 182);

  spec::QuantConfig weights = test::quant_config("pre", true);
  weights.injection_point = "weight";
  CHECK(attached(weights).twice.empty());
  CHECK(!attached(weights).modules[0].activation);
  weights.targets = {"o_proj"};
  CHECK(attached(weights).projections == 2);

  CHECK(attached(test::quant_config("pre", true, "none")).modules.empty());
}

TEST_CASE("names are whole names: layers.2 is not layers.20") {
  spec::QuantConfig quant = test::quant_config("pre", true);
  quant.exclude = {"^model\\.layers\\.2\\..*$", "model.layers.3.mlp.up_proj"};
  std::set<std::string> names;
  for (const auto& module : attached(quant, 22, false).modules) names.insert(module.name);
  CHECK(names.size() == 21 * 7 - 1);
  CHECK(names.count("model.layers.20.self_attn.q_proj") == 1);
  CHECK(names.count("model.layers.21.self_attn.q_proj") == 1);
  CHECK(names.count("model.layers.2.self_attn.q_proj") == 0);
  CHECK(names.count("model.layers.3.mlp.up_proj") == 0);
  quant.exclude = {"^layers\\.2$"};  // matches no whole name
  CHECK(attached(quant, 4, false).modules.size() == 28);
}

TEST_CASE("what is attached is what the series reader counted") {
  for (const std::vector<std::string>& exclude :
       {std::vector<std::string>{}, {"^.*\\.base_layer$"}, {"^model\\.layers\\.(0|3)\\..*$", "model.layers.1.mlp.up_proj"}}) {
    spec::QuantConfig quant = test::quant_config("pre", true);
    quant.exclude = exclude;
    quant.skip_first_layers = exclude.empty() ? 1 : 0;
    quant.skip_last_layers = exclude.empty() ? 2 : 0;
    quant.targets = {"q_proj", "up_proj", "down_proj"};
    spec::LoraConfig lora = test::lora_config();
    lora.targets = {"q_proj", "o_proj", "up_proj"};
    Decoder decoder = test::tiny_decoder(test::tiny_shape("qwen2", 4));
    decoder.attach_lora(lora, 1);
    const auto counted = spec::quantized_modules(quant, lora, 4);
    const AttachReport report = decoder.attach_quantizers(quant);
    REQUIRE(report.modules.size() == counted.size());
    for (std::size_t i = 0; i < counted.size(); ++i) {
      CHECK(report.modules[i].name == counted[i].name);
      CHECK(report.modules[i].projection == counted[i].projection);
    }
  }
}

TEST_CASE("rules that cannot be meant") {
  spec::QuantConfig quant = test::quant_config("pre", true);
  quant.exclude = {"^.*$"};
  CHECK_THROWS_WITH(attached(quant), Catch::Contains("no module is left to quantize") &&
                                         Catch::Contains("model.layers.0.self_attn.q_proj.base_layer"));
  quant.exclude = {"model.layers.0.self_attn.q_prj"};
  CHECK_THROWS_WITH(attached(quant), Catch::Contains("did you mean 'model.layers.0.self_attn.q_proj'"));
  quant.exclude = {".*"};
  CHECK_THROWS_WITH(attached(quant), Catch::Contains("a pattern is written"));
  quant.exclude = {"^model.(layers$"};
  CHECK_THROWS_WITH(attached(quant), Catch::Contains("the pattern does not compile"));
  quant.exclude = {};
  quant.format = "fp3";
  CHECK_THROWS_WITH(attached(quant), Catch::Contains("fp3"));
  Decoder decoder = test::tiny_decoder();
  spec::LoraConfig lora = test::lora_config();
  lora.targets = {"q_pro"};
  CHECK_THROWS_WITH(decoder.attach_lora(lora, 1), Catch::Contains("did you mean 'q_proj'"));
}

TEST_CASE("which adapters are left with a gradient") {
  const std::set<std::string> all = coverage(test::quant_config("pre", true, "none"));
  CHECK(all.size() == 28);
  for (const char* format : {"nvfp4", "mxfp4"}) {
    CHECK(coverage(test::quant_config("pre", true, format)) == all);
    CHECK(coverage(test::quant_config("post", true, format)) == all);
    CHECK(coverage(test::quant_config("post", false, format)) == std::set<std::string>{"no graph"});
    std::set<std::string> residual;
    for (const std::string& name : all)
      if (name.find("o_proj") != std::string::npos || name.find("down_proj") != std::string::npos) residual.insert(name);
    CHECK(residual.size() == 8);
    CHECK(coverage(test::quant_config("pre", false, format)) == residual);
  }
  spec::QuantConfig weights = test::quant_config("pre", false);
  weights.injection_point = "weight";
  CHECK(coverage(weights) == all);
  spec::QuantConfig sampling = test::quant_config("post", false);
  sampling.apply_during = "rollout";
  CHECK(coverage(sampling) == all);
}

TEST_CASE("a layer left out keeps its gradients behind a post-hook without estimator") {
  spec::QuantConfig quant = test::quant_config("post", false);
  quant.exclude = {"^model\\.layers\\.1\\..*$"};
  const auto names = coverage(quant);
  CHECK(names.size() == 14);
  for (const auto& name : names) CHECK(name.find("layers.1.") != std::string::npos);
}

TEST_CASE("the phase decides whether quantizers act, weights included") {
  const auto prompts = test::random_sequences(2, 4, 9, 1);
  const auto states = [&](const std::string& during, Phase phase) {
    Decoder decoder = test::tiny_decoder();
    test::attach_random_lora(decoder);
    spec::QuantConfig quant = test::quant_config("pre", true);
    quant.apply_during = during;
    decoder.attach_quantizers(quant);
    decoder.set_phase(phase);
    const at::NoGradGuard no_grad;
    return decoder.prefill(rows_of(prompts)).last;
  };
  const at::Tensor clean = states("both", Phase::off), quantized = states("both", Phase::training);
  CHECK(test::gap(clean, quantized) > 1e-3);
  CHECK(test::same_bits(states("both", Phase::rollout), quantized));
  CHECK(test::same_bits(states("training", Phase::training), quantized));
  CHECK(test::same_bits(states("training", Phase::rollout), clean));
  CHECK(test::same_bits(states("rollout", Phase::training), clean));
  CHECK(test::same_bits(states("rollout", Phase::rollout), quantized));
}

TEST_CASE("what each hook sees: the observer's inputs and results") {
  const auto prompts = test::random_sequences(2, 4, 9, 1);
  for (const std::string hook : {"pre", "post"}) {
    Decoder decoder = test::tiny_decoder();
    test::attach_random_lora(decoder);
    int calls = 0;
    spec::QuantConfig quant = test::quant_config(hook, true);
    quant.tensor_scale = "row";
    decoder.attach_quantizers(quant, [&](const at::Tensor& x, const quant::Spec& spec, bool ste) {
      ++calls;
      CHECK(ste);
      return quant::fake_quantize(x, spec, 1);
    });
    std::map<std::string, std::pair<at::Tensor, at::Tensor>> seen;
    decoder.set_observer([&](const std::string& name, const at::Tensor& x, const at::Tensor& xq) {
      CHECK(seen.emplace(name, std::make_pair(x, xq)).second);
    });
    const at::NoGradGuard no_grad;
    decoder.prefill(rows_of(prompts));
    CHECK(seen.size() == 28);
    const std::string q = "model.layers.1.self_attn.q_proj", k = "model.layers.1.self_attn.k_proj";
    const auto& [x, xq] = seen.at(q);
    quant::Spec spec;
    spec.scope = quant::Scope::row;
    CHECK(test::same_bits(xq, quant::fake_quantize(x, spec, 1)));
    if (hook == "pre") {
      CHECK(calls == 2 * 2 * 4);  // q, k, v share their input, gate and up theirs; wrapper and base layer each
      CHECK(seen.at(k).second.is_same(xq));
      CHECK(seen.at(q + ".base_layer").first.is_same(xq));
    } else {
      CHECK(calls == 28);
      CHECK(x.size(1) == 48);
      CHECK(seen.at(k).first.size(1) == 24);
      CHECK(!seen.at(q + ".base_layer").second.is_same(x));  // the low-rank part is added in between
    }
  }
}

TEST_CASE("weights are quantized once, along the axis that blocking names; the clean ones stay") {
  for (const std::string blocking : {"row", "column"}) {
    Decoder decoder = test::tiny_decoder();
    const at::Tensor clean = decoder.base_weights()[3].tensor.clone();
    spec::QuantConfig quant = test::quant_config("pre", true);
    quant.injection_point = "weight";
    quant.blocking = blocking;
    decoder.attach_quantizers(quant);
    REQUIRE(decoder.base_weights()[3].name == "model.layers.0.self_attn.q_proj.weight");
    CHECK(test::same_bits(decoder.base_weights()[3].tensor, clean));
    // The same model with its weights quantized by hand.
    Decoder by_hand = test::tiny_decoder();
    const at::NoGradGuard no_grad;
    for (const auto& weight : by_hand.base_weights())
      if (weight.name.ends_with("_proj.weight"))
        at::Tensor(weight.tensor).copy_(quant::fake_quantize(weight.tensor, {}, blocking == "row" ? 1 : 0));
    const auto prompts = test::random_sequences(2, 4, 9, 1);
    CHECK(test::same_bits(decoder.prefill(rows_of(prompts)).last, by_hand.prefill(rows_of(prompts)).last));
  }
}

TEST_CASE("what reaches the weights' and the activations' quantizers: tiles, rounding, policy, rotation") {
  const auto prompts = test::random_sequences(2, 4, 9, 1);
  spec::QuantConfig config = test::quant_config("pre", true);
  config.tensor_scale = "row";
  const auto last = [&](const spec::QuantConfig& quant, std::uint64_t seed, bool lora = true) {
    Decoder decoder = test::tiny_decoder();
    if (lora) test::attach_random_lora(decoder);
    decoder.attach_quantizers(quant, default_activation_quantizer(), seed);
    const at::NoGradGuard no_grad;
    return decoder.prefill(rows_of(prompts)).last;
  };
  const at::Tensor plain = last(config, 1);
  CHECK(test::same_bits(plain, last(config, 2)));

  config.blocking = "2d";
  config.injection_point = "weight";
  {
    Decoder by_hand = test::tiny_decoder();
    const at::NoGradGuard no_grad;
    quant::Spec tiles;
    tiles.tiles = true;
    for (const auto& weight : by_hand.base_weights())
      if (weight.name.ends_with("_proj.weight")) at::Tensor(weight.tensor).copy_(quant::fake_quantize(weight.tensor, tiles, 1));
    CHECK(test::same_bits(last(config, 1, false), by_hand.prefill(rows_of(prompts)).last));
  }
  config.blocking = "row";
  config.injection_point = "both";
  for (const std::string what : {"stochastic", "hadamard", "both"}) {
    INFO(what);
    spec::QuantConfig quant = config;
    quant.rounding = what == "hadamard" ? "nearest" : "stochastic";
    quant.hadamard = what != "stochastic";
    const at::Tensor once = last(quant, 1);
    CHECK(test::same_bits(once, last(quant, 1)));  // the same seed, the same bits
    CHECK(test::gap(once, last(quant, 2)) > 1e-3);
    CHECK(test::gap(once, plain) > 1e-3);
  }

  // Draws go on from call to call and start again where the seed is set.
  spec::QuantConfig drawn = config;
  drawn.rounding = "stochastic";
  Decoder decoder = test::tiny_decoder();
  decoder.attach_quantizers(drawn);
  const at::NoGradGuard no_grad;
  const auto pass = [&] { return decoder.prefill(rows_of(prompts)).last; };
  decoder.set_rounding_seed(5);
  const at::Tensor first = pass(), second = pass();
  CHECK(test::gap(first, second) > 1e-3);
  decoder.set_rounding_seed(5);
  CHECK(test::same_bits(pass(), first));
}

TEST_CASE("rotated: quantizers see the transform of the input, and the same product comes out without them") {
  const auto prompts = test::random_sequences(2, 4, 9, 1);
  spec::QuantConfig quant = test::quant_config("pre", true);
  quant.tensor_scale = "row";
  quant.hadamard = true;
  quant.injection_point = "activation";
  const auto run = [&](bool attached, const Decoder::Observer& observer) {
    Decoder decoder = test::tiny_decoder();
    // A quantizer that does nothing: what is left of the rotation is float summation.
    if (attached) decoder.attach_quantizers(quant, [](const at::Tensor& x, const quant::Spec&, bool) { return x; }, 9);
    decoder.set_observer(observer);
    const at::NoGradGuard no_grad;
    return decoder.prefill(rows_of(prompts)).last;
  };
  std::map<std::string, at::Tensor> seen;
  const at::Tensor rotated = run(true, [&](const std::string& name, const at::Tensor& x, const at::Tensor&) { seen[name] = x; });
  CHECK(test::gap(rotated, run(false, {})) < 1e-4);
  CHECK(seen.size() == 14);
  quant.hadamard = false;
  std::map<std::string, at::Tensor> straight;
  run(true, [&](const std::string& name, const at::Tensor& x, const at::Tensor&) { straight[name] = x; });
  const std::string q = "model.layers.0.self_attn.q_proj";
  CHECK(test::gap(quant::inverse_hadamard(seen.at(q), quant::hadamard_signs(9)), straight.at(q)) < 1e-5);
  CHECK(test::gap(seen.at(q), straight.at(q)) > 0.1);

  // Gradients pass through as if nothing were there.
  quant.hadamard = true;
  quant.injection_point = "both";
  CHECK(coverage(quant) == coverage(test::quant_config("pre", true, "none")));
  quant.ste = false;
  CHECK(coverage(quant).size() == 8);

  auto shape = test::tiny_shape();
  shape.intermediate = 83;
  Decoder odd = test::tiny_decoder(shape);
  CHECK_THROWS_WITH(odd.attach_quantizers(quant), Catch::Contains("model.layers.0.mlp.down_proj has 83 in_features"));
}

TEST_CASE("hw_saturate keeps an infinite activation finite, propagate makes it NaN") {
  for (const char* policy : {"propagate", "hw_saturate"}) {
    spec::QuantConfig quant = test::quant_config("pre", true);
    quant.tensor_scale = "row";
    quant.non_finite = policy;
    quant.targets = {"down_proj"};
    Decoder decoder = test::tiny_decoder();
    decoder.attach_quantizers(quant, [](const at::Tensor& x, const quant::Spec& spec, bool) {
      at::Tensor hit = x.clone();
      hit[0][3] = std::numeric_limits<float>::infinity();
      return quant::fake_quantize(hit, spec, 1);
    });
    const at::NoGradGuard no_grad;
    const at::Tensor last = decoder.prefill(rows_of(test::random_sequences(1, 1, 1, 1))).last;
    CHECK(at::isfinite(last).all().item<bool>() == (std::string(policy) == "hw_saturate"));
    CHECK(at::isnan(last).any().item<bool>() == (std::string(policy) == "propagate"));
  }
}

TEST_CASE("gradients in FP4: near those of fp32, other ones for another seed, right in the mean, in training only") {
  spec::QuantConfig quant = test::quant_config("pre", true);
  quant.exclude = {"^.*\\.base_layer$"};
  quant.backward = "fp4";
  Decoder decoder = test::tiny_decoder();
  test::attach_random_lora(decoder);
  decoder.attach_quantizers(quant);
  const auto gradient = [&](std::uint64_t seed, at::Tensor* value = nullptr) {
    decoder.set_rounding_seed(seed);
    const TokenLogprobs scored = token_logprobs(decoder, test::random_sequences(3, 3, 9, 1), test::random_sequences(6, 2, 9, 2), 2, 1.0);
    if (value) *value = scored.logprobs.detach();
    std::vector<at::Tensor> leaves, flat;
    for (const auto& t : decoder.adapter()) leaves.push_back(t.tensor);
    for (const auto& g : torch::autograd::grad({scored.logprobs.sum()}, leaves)) flat.push_back(g.reshape({-1}));
    return at::cat(flat).to(at::kDouble);
  };
  const auto error = [](const at::Tensor& a, const at::Tensor& exact) { return ((a - exact).norm() / exact.norm()).item<double>(); };
  at::Tensor rounded_value, exact_value;
  const at::Tensor once = gradient(1, &rounded_value);
  CHECK(test::same_bits(gradient(1), once));
  CHECK(error(gradient(2), once) > 0.02);
  decoder.set_gradient_rounding(false);
  const at::Tensor exact = gradient(1, &exact_value);
  CHECK(test::same_bits(rounded_value, exact_value));  // the forward pass is the same
  decoder.set_gradient_rounding(true);
  const double one = error(once, exact);
  CHECK(one > 0.03);
  CHECK(one < 0.5);
  at::Tensor sum = at::zeros_like(exact);
  constexpr int draws = 60;
  for (int seed = 1; seed <= draws; ++seed) sum += gradient(static_cast<std::uint64_t>(seed));
  CHECK(error(sum / draws, exact) < one / 3);  // 1 / sqrt(60) is .13; some is left, docs/results/quant-torch.md
  decoder.set_phase(Phase::evaluation);
  CHECK(test::same_bits(gradient(1), exact));
}

TEST_CASE("lean weights give the same numbers, and are there quantized only unless the run needs both") {
  const auto run = [](bool lean, bool unquantized_too, const spec::QuantConfig& quant) {
    auto shape = test::tiny_shape("llama");  // untied, so that the head is a matrix of its own
    shape.family = "qwen3";
    shape.qk_norm = shape.qkv_bias = shape.o_bias = true;
    shape.intermediate = 83;  // no multiple of a panel
    Decoder decoder = test::tiny_decoder(shape);
    if (lean) decoder.set_lean(unquantized_too);
    test::attach_random_lora(decoder);
    decoder.attach_quantizers(quant);
    const TokenLogprobs scored = token_logprobs(decoder, test::random_sequences(3, 3, 9, 1), test::random_sequences(6, 2, 9, 2), 2, 1.0);
    std::vector<at::Tensor> leaves, all{scored.logprobs.detach()};
    for (const auto& t : decoder.adapter()) leaves.push_back(t.tensor);
    for (const auto& gradient : torch::autograd::grad({scored.logprobs.sum()}, leaves)) all.push_back(gradient);
    decoder.set_phase(Phase::rollout);
    const at::NoGradGuard no_grad;
    all.push_back(token_logprobs(decoder, test::random_sequences(3, 3, 9, 1), test::random_sequences(6, 2, 9, 2), 2, 1.0).logprobs);
    return all;
  };
  for (const char* when : {"both", "training"}) {
    spec::QuantConfig quant = test::quant_config("pre", true);
    quant.exclude = {"^model\\.layers\\.0\\..*$"};
    quant.apply_during = when;
    const bool both = std::string(when) == "both";
    const auto fast = run(false, true, quant), lean = run(true, !both, quant);
    REQUIRE(fast.size() == lean.size());
    for (std::size_t i = 0; i < fast.size(); ++i) CHECK(test::same_bits(fast[i], lean[i]));
    if (!both) CHECK_THROWS_WITH(run(true, false, quant), Catch::Contains("exists quantized only"));
  }
  const auto plain = run(false, true, {}), lean = run(true, true, {});
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(test::same_bits(plain[i], lean[i]));

  Decoder decoder = test::tiny_decoder();
  decoder.set_lean(false);
  decoder.attach_lora(test::lora_config(), 1);
  decoder.attach_quantizers(test::quant_config("pre", true));
  for (const auto& weight : decoder.base_weights()) CHECK(weight.name.find("_proj.weight") == std::string::npos);
  CHECK_THROWS_AS(decoder.set_lean(true), std::logic_error);
}
