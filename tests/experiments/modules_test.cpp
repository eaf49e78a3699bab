#include "experiments/spec/modules.h"

#include "reading.h"

using namespace assay::spec;
using assay::test::has;

TEST_CASE("wrapper and base_layer are two modules of one projection") {
  QuantConfig quant;
  quant.format = "nvfp4";
  const LoraConfig lora;
  auto modules = quantized_modules(quant, lora, 28);
  CHECK(modules.size() == 28 * 7 * 2);
  CHECK(modules[0].name == "model.layers.0.self_attn.q_proj");
  CHECK(modules[1].name == "model.layers.0.self_attn.q_proj.base_layer");
  CHECK(modules[1].projection == modules[0].name);
  CHECK(modules[8].name == "model.layers.0.mlp.gate_proj");

  SECTION("the published recipe: 364, and 182 without base_layer") {
    quant.exclude = {"^model\\.layers\\.(0|27)\\..*$"};
    CHECK(quantized_modules(quant, lora, 28).size() == 364);
    quant.exclude.push_back("^.*\\.base_layer$");
    CHECK(quantized_modules(quant, lora, 28).size() == 182);
  }
  SECTION("without an adapter there is no base_layer") {
    LoraConfig two;
    two.targets = {"q_proj", "v_proj"};
    CHECK(quantized_modules(quant, two, 2).size() == 2 * (7 + 2));
  }
  SECTION("an exact name is that module and no other") {
    quant.exclude = {"model.layers.2.mlp.up_proj"};
    modules = quantized_modules(quant, lora, 28);
    CHECK(modules.size() == 28 * 14 - 1);
    for (const auto& module : modules) CHECK(module.name != quant.exclude[0]);
  }
  SECTION("layers.2 does not hit 20 to 27") {
    quant.exclude = {"^model\\.layers\\.2\\..*$"};
    CHECK(quantized_modules(quant, lora, 28).size() == 27 * 14);
  }
  SECTION("layers at both ends, by count") {
    quant.skip_first_layers = 2;
    quant.skip_last_layers = 4;
    modules = quantized_modules(quant, lora, 28);
    CHECK(modules.size() == 22 * 14);
    CHECK(modules.front().name == "model.layers.2.self_attn.q_proj");
    CHECK(modules.back().projection == "model.layers.23.mlp.down_proj");
    quant.skip_last_layers = 26;
    CHECK(quantized_modules(quant, lora, 28).empty());
  }
  SECTION("no format, no modules") {
    quant.format = "none";
    CHECK(quantized_modules(quant, lora, 28).empty());
  }
}

TEST_CASE("a pattern matches the whole name") {
  CHECK(ModulePattern("^a|b$").matches("a"));
  CHECK_FALSE(ModulePattern("^a|b$").matches("ab"));
  CHECK_FALSE(ModulePattern("^a|b$").matches("xb"));
  CHECK_FALSE(ModulePattern("^a$").matches("a\n"));
  CHECK(ModulePattern("a.b").matches("a.b"));
  CHECK_FALSE(ModulePattern("a.b").matches("aXb"));
}

TEST_CASE("what is no pattern says why") {
  CHECK(ModulePattern::fault("model.layers.0.mlp.up_proj").empty());
  CHECK(ModulePattern::fault("^x$").empty());
  CHECK_THAT(ModulePattern::fault("layers.*"), has("neither an exact module name nor an anchored pattern"));
  CHECK_THAT(ModulePattern::fault("^"), has("neither"));
  CHECK_THAT(ModulePattern::fault(""), has("names no module"));
  CHECK_THAT(ModulePattern::fault("^[$"), has("does not compile"));
  CHECK_THROWS_WITH(ModulePattern("layers.*"), has("quant.exclude: "));
}

TEST_CASE("a pattern that would backtrack without end is refused, not waited for") {
  const ModulePattern pattern("^(([a-z_.0-9])+.)+[A-Z]$");
  CHECK_THROWS_WITH(pattern.matches("model.layers.10.self_attn.q_proj.base_layer"), has("backtracks too much"));
}

TEST_CASE("exclusions that hit nothing are found") {
  QuantConfig quant;
  quant.exclude = {"model.layers.1.mlp.up_proj", "model.layers.2.mlp.up_proj", "^.*\\.base_layer$", "^nothing$"};
  CHECK(idle_exclusions(quant, LoraConfig{}, 2) ==
        std::vector<std::string>{"model.layers.2.mlp.up_proj", "^nothing$"});
}
