// Hugging Face folders: what is read, and what is refused by name.
#include <ATen/ATen.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "support/safetensors.h"
#include "tests/trainer/model/tiny.h"

using namespace assay;
using namespace assay::train;
using nlohmann::json;

namespace {

json tiny_config() {
  return {{"model_type", "qwen2"}, {"vocab_size", 61}, {"hidden_size", 48}, {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"intermediate_size", 80}, {"hidden_act", "silu"},
          {"max_position_embeddings", 256}, {"rms_norm_eps", 1e-6}, {"tie_word_embeddings", true},
          {"rope_theta", 10000.0}, {"eos_token_id", 3}, {"use_sliding_window", false}};
}

void write_json(const std::filesystem::path& file, const json& value) { std::ofstream(file) << value.dump(); }

std::map<std::string, at::Tensor> tiny_weights() {
  std::map<std::string, at::Tensor> weights;
  for (const auto& weight : test::tiny_decoder().base_weights()) weights[weight.name] = weight.tensor.clone();
  return weights;
}

std::filesystem::path write_model(const std::string& name, const json& config,
                                  const std::map<std::string, at::Tensor>& weights) {
  const auto folder = test::fresh_folder("model-" + name);
  write_json(folder / "config.json", config);
  std::map<std::string, support::TensorView> views;
  for (const auto& [key, t] : weights) {
    const std::string dtype = t.scalar_type() == at::kFloat ? "F32" : t.scalar_type() == at::kHalf ? "F16"
                              : t.scalar_type() == at::kBFloat16 ? "BF16" : "I64";
    views[key] = {dtype, t.sizes().vec(), static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()};
  }
  support::write_safetensors(folder / "model.safetensors", views);
  return folder;
}

ModelShape shape_of(const json& config) {
  const auto folder = test::fresh_folder("model-shape");
  write_json(folder / "config.json", config);
  return ModelShape::read(folder);
}

}  // namespace

TEST_CASE("a folder gives the model it was written from, in each dtype") {
  const auto prompts = test::random_sequences(2, 3, 9, 1);
  const at::NoGradGuard no_grad;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    auto weights = tiny_weights();
    Decoder expected = test::tiny_decoder();
    for (const auto& weight : expected.base_weights()) {
      weights[weight.name] = weights[weight.name].to(type);
      at::Tensor(weight.tensor).copy_(weights[weight.name]);
    }
    Decoder loaded = Decoder::load(write_model("dtype", tiny_config(), weights));
    CHECK(loaded.base_weights().size() == expected.base_weights().size());
    CHECK(test::same_bits(loaded.prefill(rows_of(prompts)).last, expected.prefill(rows_of(prompts)).last));
  }
}

TEST_CASE("fields of config.json and generation_config.json") {
  json config = tiny_config();
  ModelShape shape = shape_of(config);
  CHECK(shape.head_size == 12);
  CHECK(shape.qkv_bias);
  CHECK(shape.tied);
  CHECK(shape.eos_ids == std::vector<std::int32_t>{3});
  config["head_dim"] = 16;
  config["rope_parameters"] = {{"rope_theta", 1000000.0}, {"rope_type", "default"}};
  config.erase("rope_theta");
  config["model_type"] = "llama";
  config["attention_bias"] = false;
  config["eos_token_id"] = {3, 4};
  config.erase("tie_word_embeddings");
  shape = shape_of(config);
  CHECK(shape.head_size == 16);
  CHECK(shape.rope_theta == 1000000.0);
  CHECK(!shape.qkv_bias);
  CHECK(!shape.tied);
  const auto folder = test::fresh_folder("model-generation");
  write_json(folder / "config.json", config);
  write_json(folder / "generation_config.json", {{"eos_token_id", {4, 7}}});
  CHECK(ModelShape::read(folder).eos_ids == std::vector<std::int32_t>{3, 4, 7});
}

TEST_CASE("a field that changes the mathematics and is not supported is refused by name") {
  const std::vector<std::pair<std::string, json>> fields = {
      {"model_type", "mistral"}, {"hidden_act", "gelu"}, {"use_sliding_window", true}, {"mlp_bias", true},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}, {"rope_scaling", {{"type", "linear"}}},
      {"rope_parameters", {{"rope_type", "yarn"}}}, {"partial_rotary_factor", 0.5}, {"num_experts", 8},
      {"layer_types", {"full_attention", "sliding_attention"}}, {"quantization_config", {{"bits", 4}}},
      {"num_hidden_layers", 0}, {"hidden_size", "48"}, {"num_key_value_heads", 3}, {"head_dim", 11},
      {"rms_norm_eps", -1.0}, {"eos_token_id", 61}};
  for (const auto& [key, value] : fields) {
    json config = tiny_config();
    config[key] = value;
    const std::string word = key == "head_dim" ? "head_dim" : key;
    CHECK_THROWS_WITH(shape_of(config), Catch::Contains("config.json: ") && Catch::Contains(word));
  }
  json config = tiny_config();
  config["model_type"] = "llama";
  config["attention_bias"] = true;
  CHECK_THROWS_WITH(shape_of(config), Catch::Contains("attention_bias"));
  config = tiny_config();
  config.erase("vocab_size");
  CHECK_THROWS_WITH(shape_of(config), Catch::Contains("vocab_size is missing"));
  config = tiny_config();
  config["rope_scaling"] = nullptr;
  CHECK_NOTHROW(shape_of(config));
}

TEST_CASE("weights that are missing, too many, misshapen or not finite are named") {
  auto weights = tiny_weights();
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const at::Tensor good = weights[name];
  weights.erase(name);
  CHECK_THROWS_WITH(Decoder::load(write_model("missing", tiny_config(), weights)), Catch::Contains(name));
  weights[name] = good.t().contiguous();
  CHECK_THROWS_WITH(Decoder::load(write_model("shape", tiny_config(), weights)),
                    Catch::Contains(name + " has shape [48, 80], config.json asks for [80, 48]"));
  weights[name] = good.to(at::kLong);
  CHECK_THROWS_WITH(Decoder::load(write_model("type", tiny_config(), weights)), Catch::Contains(name + " has dtype I64"));
  for (const float bad : {NAN, INFINITY}) {
    weights[name] = good.clone();
    weights[name][3][4] = bad;
    CHECK_THROWS_WITH(Decoder::load(write_model("finite", tiny_config(), weights)),
                      Catch::Contains(name + " holds NaN or infinite values"));
  }
  weights[name] = good;
  weights["model.layers.0.self_attn.o_proj.bias"] = at::zeros({48});
  CHECK_THROWS_WITH(Decoder::load(write_model("extra", tiny_config(), weights)),
                    Catch::Contains("model.layers.0.self_attn.o_proj.bias is not part of"));
  CHECK_THROWS_WITH(Decoder::load(test::fresh_folder("model-empty")), Catch::Contains("config.json: no such file"));
}

TEST_CASE("LoRA begins as PEFT's: A within 1 / sqrt(in), B zero, the same for the same seed") {
  Decoder one = test::tiny_decoder(), two = test::tiny_decoder(), three = test::tiny_decoder();
  const auto prompts = test::random_sequences(2, 3, 9, 1);
  const at::Tensor before = one.prefill(rows_of(prompts)).last;
  one.attach_lora(test::lora_config(), 1);
  two.attach_lora(test::lora_config(), 1);
  three.attach_lora(test::lora_config(), 2);
  const auto adapter = one.adapter();
  REQUIRE(adapter.size() == 28);
  CHECK(adapter[0].name == "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  CHECK(adapter[1].name == "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  CHECK(adapter[27].name == "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
  CHECK(adapter[27].tensor.sizes() == at::IntArrayRef({48, 4}));
  for (std::size_t i = 0; i < adapter.size(); ++i) {
    CHECK(adapter[i].tensor.requires_grad());
    CHECK(test::same_bits(adapter[i].tensor, two.adapter()[i].tensor));
    if (i % 2) {
      CHECK(adapter[i].tensor.abs().sum().item<double>() == 0);
      continue;
    }
    CHECK(!test::same_bits(adapter[i].tensor, three.adapter()[i].tensor));
    const double bound = 1 / std::sqrt(static_cast<double>(adapter[i].tensor.size(1)));
    CHECK(adapter[i].tensor.abs().max().item<double>() <= bound);
    CHECK(adapter[i].tensor.abs().max().item<double>() > 0.9 * bound);
  }
  CHECK(test::same_bits(one.prefill(rows_of(prompts)).last.detach(), before));
}
