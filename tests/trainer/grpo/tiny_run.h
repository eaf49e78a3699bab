// A run folder with a model of some thousand random weights, a tokenizer of a few dozen tokens and made-up problems,
// all written here: what a whole run does can be tested in seconds.
//
// Two added tokens spell `#### 1` and `#### 2`, so that a random model hits on a rightly formatted answer now and then.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "experiments/spec/canonical.h"
#include "support/safetensors.h"
#include "tests/catch.h"
#include "trainer/model/decoder.h"

namespace assay::test {

namespace fs = std::filesystem;
using nlohmann::json;

inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
}

inline std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline std::vector<json> read_lines(const fs::path& path) {
  std::vector<json> lines;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

inline train::ModelShape tiny_shape() {
  train::ModelShape shape;
  shape.family = "qwen2";
  shape.vocabulary = 48;
  shape.hidden = 32;
  shape.layers = 2;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.head_size = 16;
  shape.intermediate = 48;
  shape.max_positions = 128;
  shape.tied = true;
  shape.qkv_bias = true;
  shape.eos_ids = {0};
  return shape;
}

inline json tiny_tokenizer() {
  json vocabulary = json::object(), added = json::array();
  const auto add = [&](int id, const std::string& content, bool special) {
    added.push_back({{"id", id}, {"content", content}, {"single_word", false}, {"lstrip", false},
                     {"rstrip", false}, {"normalized", false}, {"special", special}});
  };
  int next = 0;
  vocabulary["<|endoftext|>"] = next++;
  for (char c = 'a'; c <= 'z'; ++c) vocabulary[std::string(1, c)] = next++;
  for (char c = '0'; c <= '9'; ++c) vocabulary[std::string(1, c)] = next++;
  for (const auto* piece : {"Ġ", "Ċ", "#", ".", "?"}) vocabulary[piece] = next++;
  add(0, "<|endoftext|>", true);
  add(next++, "#### 1", false);
  add(next++, "#### 2", false);
  return {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added}, {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false},
                     {"ignore_merges", false}, {"vocab", vocabulary}, {"merges", json::array()}}}};
}

// `spoil` may change weights before they are written.
inline void write_tiny_model(const fs::path& folder, const std::function<void(const std::string&, at::Tensor)>& spoil = {}) {
  fs::create_directories(folder);
  const auto shape = tiny_shape();
  const json config{{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"}, {"vocab_size", shape.vocabulary},
                    {"hidden_size", shape.hidden}, {"intermediate_size", shape.intermediate},
                    {"num_hidden_layers", shape.layers}, {"num_attention_heads", shape.heads},
                    {"num_key_value_heads", shape.kv_heads}, {"max_position_embeddings", shape.max_positions},
                    {"rms_norm_eps", shape.rms_eps}, {"rope_theta", shape.rope_theta}, {"tie_word_embeddings", true},
                    {"hidden_act", "silu"}, {"eos_token_id", 0}, {"bos_token_id", 0}, {"torch_dtype", "float32"}};
  write_text(folder / "config.json", config.dump());
  write_text(folder / "tokenizer.json", tiny_tokenizer().dump());
  const auto decoder = train::Decoder::fresh(shape, 7);
  std::map<std::string, support::TensorView> views;
  const auto weights = decoder.base_weights();
  for (const auto& weight : weights) {
    const at::NoGradGuard no_grad;
    at::Tensor tensor = weight.tensor;
    if (tensor.dim() == 2) tensor.mul_(4.0);  // so that a token's distribution is not flat
    if (spoil) spoil(weight.name, tensor);
    views[weight.name] = {"F32", tensor.sizes().vec(), static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
  }
  support::write_safetensors(folder / "model.safetensors", views, {{"format", "pt"}});
}

inline void write_tiny_problems(const fs::path& file, int count, int first) {
  std::string lines;
  for (int i = 0; i < count; ++i) {
    const int n = first + i;
    const std::string question = std::string("how many ") + static_cast<char>('a' + n % 26) + static_cast<char>('a' + n / 26 % 26);
    lines += json{{"question", question}, {"answer", "so\n#### " + std::to_string(1 + n % 2)}}.dump() + "\n";
  }
  write_text(file, lines);
}

// train.device of tiny_config(): "cuda" in the program that has a stand-in for a GPU (tests/trainer/gpu).
inline std::string tiny_device = "cpu";
// Where sums do not depend on what else is in a batch, so that the sampler's log-probs are the trainer's to the bit.
inline bool on_cpu() { return tiny_device == "cpu"; }

inline spec::Config tiny_config() {
  spec::Config config;
  config.train.device = tiny_device;
  config.model.path = "model";
  config.data.train = "train.jsonl";
  config.data.test = "test.jsonl";
  config.prompt.text = "{question}?\n";
  config.lora.rank = 4;
  config.lora.alpha = 8;
  config.rollout.samples_per_prompt = 8;
  config.rollout.max_prompt_length = 64;
  config.rollout.max_response_length = 10;
  config.grpo.train_batch_size = 8;
  config.grpo.mini_batch_size = 4;
  config.optimizer.lr = 1e-2;
  config.eval.test_freq = 2;
  config.train.steps = 3;
  return config;
}

// A run folder as the runner would make it, but for the files that the trainer does not read.
inline fs::path make_run(const std::string& name, const spec::Config& config) {
  const auto folder = fresh_folder(name);
  write_tiny_model(folder / "model");
  write_tiny_problems(folder / "train.jsonl", 40, 0);
  write_tiny_problems(folder / "test.jsonl", 20, 100);
  write_text(folder / "config.json", spec::canonical_json(config));
  return folder;
}

// Metrics of a run: step -> key -> value, timings left out.
inline std::map<std::int64_t, std::map<std::string, json>> metrics_of(const fs::path& run) {
  std::map<std::int64_t, std::map<std::string, json>> result;
  for (const auto& line : read_lines(run / "metrics.jsonl"))
    for (const auto& [key, value] : line["metrics"].items())
      if (!key.starts_with("timing_s/") && !key.starts_with("perf/")) result[line["step"].get<std::int64_t>()][key] = value;
  return result;
}

inline std::vector<std::string> event_kinds(const fs::path& run) {
  std::vector<std::string> kinds;
  for (const auto& line : read_lines(run / "events.jsonl")) kinds.push_back(line["kind"]);
  REQUIRE_FALSE(kinds.empty());
  return kinds;
}

}  // namespace assay::test
