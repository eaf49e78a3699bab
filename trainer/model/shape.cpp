// config.json of the Qwen2, Qwen3 and Llama families: what is supported is read, what is not is refused by name.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"
#include "trainer/model/decoder.h"

namespace assay::train {
namespace {

using nlohmann::json;

class ConfigReader {
 public:
  explicit ConfigReader(const std::filesystem::path& file) : file_(file) {
    try {
      json_ = json::parse(support::read_file(file));
    } catch (const json::exception& error) {
      throw std::runtime_error(file.string() + ": not JSON: " + error.what());
    }
    if (!json_.is_object()) fail("not a JSON object");
  }

  [[noreturn]] void fail(const std::string& what) const { throw std::runtime_error(file_.string() + ": " + what); }
  const json* find(const json& in, const char* key) const {
    const auto at = in.find(key);
    return at == in.end() || at->is_null() ? nullptr : &*at;
  }
  const json* find(const char* key) const { return find(json_, key); }

  std::int64_t whole(const char* key, std::int64_t fallback = -1) const {
    const json* value = find(key);
    if (!value) {
      if (fallback < 0) fail(std::string(key) + " is missing");
      return fallback;
    }
    if (!value->is_number_integer() || value->get<std::int64_t>() <= 0 ||
        value->get<std::int64_t>() > (std::int64_t{1} << 31))
      fail(std::string(key) + " must be a positive whole number, not " + value->dump());
    return value->get<std::int64_t>();
  }
  double real(const json& in, const char* key, double fallback) const {
    const json* value = find(in, key);
    if (!value) return fallback;
    if (!value->is_number() || !(value->get<double>() > 0))
      fail(std::string(key) + " must be a positive number, not " + value->dump());
    return value->get<double>();
  }
  bool flag(const char* key, bool fallback) const {
    const json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) fail(std::string(key) + " must be true or false, not " + value->dump());
    return value->get<bool>();
  }
  std::string word(const json& in, const char* key, const std::string& fallback) const {
    const json* value = find(in, key);
    if (!value) return fallback;
    if (!value->is_string()) fail(std::string(key) + " must be a string, not " + value->dump());
    return value->get<std::string>();
  }
  void refuse_unless(const char* key, const json& allowed) const {
    const json* value = find(key);
    if (value && *value != allowed)
      fail(std::string(key) + " = " + value->dump() + " is not supported (only " + allowed.dump() + ")");
  }
  void end_ids(std::vector<std::int32_t>& to) const {
    const json* value = find("eos_token_id");
    if (!value) return;
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& id : list) {
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0) fail("eos_token_id must hold token ids");
      const auto n = id.get<std::int32_t>();
      if (std::find(to.begin(), to.end(), n) == to.end()) to.push_back(n);
    }
  }
  const json& all() const { return json_; }

 private:
  std::filesystem::path file_;
  json json_;
};

// What a rope type needs beside its name. transformers 5 writes rope_theta and the scaling into one rope_parameters.
void read_rope(const ConfigReader& config, ModelShape& shape) {
  shape.rope_theta = config.real(config.all(), "rope_theta", 10000);
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    const json* rope = config.find(key.c_str());
    if (!rope) continue;
    if (!rope->is_object()) config.fail(key + " must be an object");
    RopeScaling scaling;
    scaling.type = config.word(*rope, "rope_type", config.word(*rope, "type", "default"));
    std::vector<std::string> known{"rope_type", "type", "rope_theta", "partial_rotary_factor"}, needed;
    if (scaling.type == "linear")
      needed = {"factor"};
    else if (scaling.type == "llama3")
      needed = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"};
    else if (scaling.type != "default")
      config.fail(key + " of type \"" + scaling.type + "\" is not supported (default, linear and llama3 are)");
    for (const std::string& name : needed)
      if (!config.find(*rope, name.c_str())) config.fail(key + " of type \"" + scaling.type + "\" needs " + name);
    known.insert(known.end(), needed.begin(), needed.end());
    for (const auto& [name, value] : rope->items())
      if (!value.is_null() && std::find(known.begin(), known.end(), name) == known.end())
        config.fail(key + "." + name + " is not supported with type \"" + scaling.type + "\"");
    if (const json* part = config.find(*rope, "partial_rotary_factor"); part && *part != 1.0)
      config.fail(key + ".partial_rotary_factor = " + part->dump() + " is not supported (only 1.0)");
    scaling.factor = config.real(*rope, "factor", 1);
    scaling.low_freq_factor = config.real(*rope, "low_freq_factor", scaling.low_freq_factor);
    scaling.high_freq_factor = config.real(*rope, "high_freq_factor", scaling.high_freq_factor);
    scaling.original_positions = config.real(*rope, "original_max_position_embeddings", scaling.original_positions);
    if (scaling.type == "llama3" && !(scaling.high_freq_factor > scaling.low_freq_factor))
      config.fail(key + ": high_freq_factor must be greater than low_freq_factor");
    shape.rope = scaling;
    shape.rope_theta = config.real(*rope, "rope_theta", shape.rope_theta);
  }
}

// Whether any layer looks at a window only, as transformers decides it: layer_types where given, else by
// use_sliding_window and max_window_layers (layers from that one on).
void refuse_sliding_window(const ConfigReader& config, const ModelShape& shape) {
  if (const json* types = config.find("layer_types")) {
    if (!types->is_array() || static_cast<std::int64_t>(types->size()) != shape.layers)
      config.fail("layer_types must list num_hidden_layers = " + std::to_string(shape.layers) + " types");
    for (const json& type : *types)
      if (type != "full_attention")
        config.fail("layer_types with " + type.dump() + " is not supported (only \"full_attention\")");
    return;
  }
  const json* window = config.find("sliding_window");
  if (shape.family == "llama") {
    if (window) config.fail("sliding_window = " + window->dump() + " is not supported");
    config.refuse_unless("use_sliding_window", false);
    return;
  }
  const bool off = !window && config.all().contains("sliding_window");  // null; where it is missing it is 4096
  if (config.flag("use_sliding_window", false) && !off && config.whole("max_window_layers", 28) < shape.layers)
    config.fail("use_sliding_window = true with max_window_layers below num_hidden_layers is not supported");
}

void refuse_the_unsupported(const ConfigReader& config, const ModelShape& shape) {
  config.refuse_unless("hidden_act", "silu");
  config.refuse_unless("partial_rotary_factor", 1.0);
  config.refuse_unless("pretraining_tp", 1);
  config.refuse_unless("attention_dropout", 0.0);
  config.refuse_unless("is_causal", true);
  config.refuse_unless("use_bidirectional_attention", false);
  refuse_sliding_window(config, shape);
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size", "quantization_config",
                          "attn_logit_softcapping", "final_logit_softcapping", "no_rope_layers", "use_qk_norm", "qk_layernorm",
                          "attention_multiplier", "residual_multiplier", "embedding_multiplier", "logits_scaling",
                          "query_pre_attn_scalar", "attention_chunk_size", "dual_chunk_attention_config"})
    if (const json* value = config.find(key); value && *value != false)
      config.fail(std::string(key) + " = " + value->dump() + " is not supported");
}

}  // namespace

ModelShape ModelShape::read(const std::filesystem::path& folder) {
  const auto file = folder / "config.json";
  if (!std::filesystem::exists(file))
    throw std::runtime_error(file.string() + ": no such file; a model folder holds config.json, *.safetensors and tokenizer.json");
  const ConfigReader config(file);
  ModelShape shape;
  shape.family = config.word(config.all(), "model_type", "");
  if (shape.family != "qwen2" && shape.family != "qwen3" && shape.family != "llama")
    config.fail("model_type \"" + shape.family + "\" is not supported (qwen2, qwen3 and llama are)");
  const bool qwen = shape.family != "llama";
  shape.vocabulary = config.whole("vocab_size");
  shape.hidden = config.whole("hidden_size");
  shape.layers = config.whole("num_hidden_layers");
  shape.heads = config.whole("num_attention_heads");
  // Where these are missing, transformers takes numbers of the class, which are hardly those of the weights at hand.
  shape.kv_heads = qwen ? config.whole("num_key_value_heads") : config.whole("num_key_value_heads", shape.heads);
  shape.intermediate = config.whole("intermediate_size");
  shape.max_positions = config.whole("max_position_embeddings", 2048);
  if (shape.family == "qwen3" && !config.find("head_dim")) config.fail("head_dim is missing");
  if (!config.find("head_dim") && shape.hidden % shape.heads != 0)
    config.fail("hidden_size is not a multiple of num_attention_heads, and there is no head_dim");
  shape.head_size = config.whole("head_dim", std::max<std::int64_t>(1, shape.hidden / shape.heads));
  if (shape.heads % shape.kv_heads != 0) config.fail("num_attention_heads is not a multiple of num_key_value_heads");
  if (shape.head_size % 2 != 0) config.fail("head_dim must be even for rotary positions");
  shape.rms_eps = config.real(config.all(), "rms_norm_eps", 1e-6);
  shape.tied = config.flag("tie_word_embeddings", false);
  // Qwen2 has biases on q, k and v whatever its config says; the others have them on all four where asked to.
  if (shape.family == "qwen2") {
    shape.qkv_bias = true;
    config.refuse_unless("attention_bias", true);
  } else {
    shape.qkv_bias = shape.o_bias = config.flag("attention_bias", false);
  }
  if (qwen)
    config.refuse_unless("mlp_bias", false);
  else
    shape.mlp_bias = config.flag("mlp_bias", false);
  shape.qk_norm = shape.family == "qwen3";
  read_rope(config, shape);
  refuse_the_unsupported(config, shape);
  config.end_ids(shape.eos_ids);
  const auto generation = folder / "generation_config.json";
  if (std::filesystem::exists(generation)) ConfigReader(generation).end_ids(shape.eos_ids);
  for (const auto id : shape.eos_ids)
    if (id >= shape.vocabulary) config.fail("eos_token_id " + std::to_string(id) + " is outside of the vocabulary");
  return shape;
}

}  // namespace assay::train
