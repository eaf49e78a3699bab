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

TEST_CASE("what is added where the config asks for it: biases, norms of q and k, rope scaling") {
  const auto names = [](const json& config) {
    std::vector<std::string> found;
    for (const auto& weight : Decoder::fresh(shape_of(config), 1).base_weights()) found.push_back(weight.name);
    return found;
  };
  const auto has = [](const std::vector<std::string>& all, const std::string& name) {
    return std::find(all.begin(), all.end(), "model.layers.1." + name) != all.end();
  };
  json config = tiny_config();
  auto all = names(config);
  CHECK((has(all, "self_attn.q_proj.bias") && !has(all, "self_attn.o_proj.bias") && !has(all, "self_attn.q_norm.weight")));
  config["model_type"] = "llama";
  all = names(config);
  CHECK((!has(all, "self_attn.q_proj.bias") && !has(all, "mlp.up_proj.bias")));
  config["attention_bias"] = config["mlp_bias"] = true;
  all = names(config);
  CHECK((has(all, "self_attn.q_proj.bias") && has(all, "self_attn.o_proj.bias") && has(all, "mlp.down_proj.bias")));
  config.erase("mlp_bias");
  config["model_type"] = "qwen3";
  config["head_dim"] = 16;
  all = names(config);
  CHECK((has(all, "self_attn.o_proj.bias") && has(all, "self_attn.q_norm.weight") && has(all, "self_attn.k_norm.weight")));
  config["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 64}};
  const ModelShape shape = shape_of(config);
  CHECK(shape.rope.type == "llama3");
  CHECK(shape.rope.factor == 8);
  CHECK(shape.rope.original_positions == 64);
}

TEST_CASE("a field that changes the mathematics and is not supported is refused by name") {
  const std::vector<std::pair<std::string, json>> fields = {
      {"model_type", "mistral"}, {"hidden_act", "gelu"}, {"mlp_bias", true}, {"attention_bias", false},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}, {"rope_scaling", {{"type", "linear"}}},
      {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}, {"rope_scaling", {{"type", "longrope"}}},
      {"rope_scaling", {{"rope_type", "default"}, {"mrope_section", {1, 2}}}}, {"rope_scaling", 2},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", -2.0}}},
      {"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}},
      {"rope_parameters", {{"rope_type", "yarn"}}}, {"partial_rotary_factor", 0.5}, {"num_experts", 8},
      {"layer_types", {"full_attention", "sliding_attention"}}, {"layer_types", {"full_attention"}},
      {"quantization_config", {{"bits", 4}}}, {"attention_dropout", 0.1}, {"is_causal", false}, {"logits_scaling", 8.0},
      {"num_hidden_layers", 0}, {"hidden_size", "48"}, {"num_key_value_heads", 3}, {"head_dim", 11},
      {"rms_norm_eps", -1.0}, {"eos_token_id", 61}};
  for (const auto& [key, value] : fields) {
    json config = tiny_config();
    config[key] = value;
    const bool inside = key == "rope_scaling" && value.is_object() && value.contains("factor") && value["factor"] < 0;
    const std::string word = inside ? "factor must be a positive number" : key;
    CHECK_THROWS_WITH(shape_of(config), Catch::Contains("config.json: ") && Catch::Contains(word));
  }
  json config = tiny_config();
  config["use_sliding_window"] = true;
  CHECK_NOTHROW(shape_of(config));  // from layer 28 on, and there are two
  config["max_window_layers"] = 1;
  CHECK_THROWS_WITH(shape_of(config), Catch::Contains("use_sliding_window"));
  config["sliding_window"] = nullptr;
  CHECK_NOTHROW(shape_of(config));
  config = tiny_config();
  config["model_type"] = "llama";
  config["sliding_window"] = 128;
  CHECK_THROWS_WITH(shape_of(config), Catch::Contains("sliding_window = 128"));
  config = tiny_config();
  config["model_type"] = "qwen3";
  CHECK_THROWS_WITH(shape_of(config), Catch::Contains("head_dim is missing"));
  config = tiny_config();
  config.erase("num_key_value_heads");
  CHECK_THROWS_WITH(shape_of(config), Catch::Contains("num_key_value_heads is missing"));
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

TEST_CASE("shards that are missing, or that the index does not agree with, are named") {
  const auto weights = tiny_weights();
  const auto folder = write_model("sharded", tiny_config(), weights);
  const std::string file = "model-00001-of-00002.safetensors", other = "model-00002-of-00002.safetensors";
  std::filesystem::rename(folder / "model.safetensors", folder / file);
  json map;
  for (const auto& [name, t] : weights) map[name] = file;
  const auto index = folder / "model.safetensors.index.json";
  write_json(index, {{"weight_map", map}});
  CHECK_NOTHROW(Decoder::load(folder));
  map["model.norm.weight"] = other;
  write_json(index, {{"weight_map", map}});
  CHECK_THROWS_WITH(Decoder::load(folder), Catch::Contains("model.norm.weight") && Catch::Contains("index does not place there"));
  std::filesystem::rename(folder / file, folder / "away");
  CHECK_THROWS_WITH(Decoder::load(folder), Catch::Contains(file) && Catch::Contains("shard"));
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
