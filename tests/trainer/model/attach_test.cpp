// Quantizers by rule: which modules, and which adapters are left with a gradient.
#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <map>
#include <set>

#include "catch.h"
#include "experiments/spec/modules.h"
#include "quant/torch/fake_quantize.h"
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
