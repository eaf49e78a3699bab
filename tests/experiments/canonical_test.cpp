#include "experiments/spec/canonical.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "reading.h"
#include "experiments/spec/fields.h"

using namespace assay::spec;
using assay::test::has;
using nlohmann::json;

namespace {

// A value that the field accepts, at random.
Value random_value(const Field& field, std::mt19937_64& random) {
  const Rule& rule = field.rule;
  Config config;
  const Value now = field.get(config);
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  if (std::holds_alternative<bool>(now)) return uniform() < .5;
  if (std::holds_alternative<std::int64_t>(now)) {
    const double high = std::min(rule.high, 1e6);
    return static_cast<std::int64_t>(rule.low + std::floor(uniform() * (high - rule.low)));
  }
  if (std::holds_alternative<double>(now)) {
    const double high = std::min(rule.high, 1e9);
    return rule.low + (high - rule.low) * std::pow(uniform() * .99 + .005, 4);
  }
  const auto text = [&]() -> std::string {
    if (rule.kind == Rule::Kind::choice) return rule.choices[random() % rule.choices.size()];
    if (rule.kind == Rule::Kind::modules) return random() % 2 ? "^model\\..*\"ü\\n$" : "model.layers.0.mlp.up_proj";
    const Strings words = {"", "x", "a\"b\\c", "line\nline", "ünïcödé €", "{question}", "\x01\x7f"};
    return words[random() % words.size()];
  };
  if (std::holds_alternative<std::string>(now)) return text();
  Strings list;
  if (rule.kind == Rule::Kind::choice) {
    list = rule.choices;
    std::shuffle(list.begin(), list.end(), random);
    list.resize(1 + random() % list.size());
  } else {
    for (std::size_t i = random() % 4; i > 0; --i) list.push_back(text());
  }
  return list;
}

json parsed(const Config& config) { return json::parse(canonical_json(config)); }

std::string refusal(const json& root) {
  try {
    config_from_json(root);
  } catch (const std::runtime_error& failure) {
    return failure.what();
  }
  return "";
}

}  // namespace

TEST_CASE("canonical JSON round-trips for any config, and the hash follows the bytes") {
  std::mt19937_64 random(13);
  std::string last_hash;
  for (int i = 0; i < 2000; ++i) {
    Config config;
    for (const Field& field : fields()) {
      const auto taken = accept(field, random_value(field, random));
      INFO(field.key);
      if (const auto* refused = std::get_if<Refusal>(&taken)) FAIL(refused->message);
      field.set(config, std::get<Value>(taken));
    }
    const std::string text = canonical_json(config);
    const Config back = config_from_json(json::parse(text));
    REQUIRE(canonical_json(back) == text);
    for (const Field& field : fields()) REQUIRE(field.get(back) == field.get(config));
    REQUIRE(config_hash(back) == config_hash(config));
    REQUIRE(config_hash(config) != last_hash);
    last_hash = config_hash(config);
  }
}

// A change of these bytes makes every stored hash another one: it happens when a key is added or a default changes, and
// then on purpose.
TEST_CASE("the defaults have these bytes") {
  const std::string golden =
      R"json({"checkpoint":{"every":5,"keep_best":true,"keep_last":2},)json"
      R"json("data":{"test":"","train":""},)json"
      R"json("eval":{"batch_size":0,"limit":0,"quant":"as_training","test_freq":20},)json"
      R"json("grpo":{"advantage":"std","clip_ratio_c":3.0,"clip_ratio_high":0.2,"clip_ratio_low":0.2,"entropy_coef":0.0,"filter_groups":false,"gen_batch_size":0,"kl_coef":0.0,"kl_type":"k3","loss_agg":"token-mean","max_num_gen_batches":5,"micro_batch_size":0,"mini_batch_size":32,"overlong_buffer":0,"overlong_factor":0.5,"rollout_is":"none","tis_cap":2.0,"train_batch_size":128},)json"
      R"json("lora":{"alpha":32.0,"dropout":0.0,"init":"kaiming","rank":16,"targets":["q_proj","k_proj","v_proj","o_proj","gate_proj","up_proj","down_proj"]},)json"
      R"json("model":{"dtype":"fp32","path":""},)json"
      R"json("noise":{"apply_during":"rollout","kind":"none","rin":"targeted","scan_prompts":16,"schedule":"stages","sigma_end":0.0001,"sigma_start":0.01,"stages":10,"target_error":0.0,"targets":["input_layernorm","post_attention_layernorm"],"zones":[]},)json"
      R"json("optimizer":{"beta1":0.9,"beta2":0.999,"eps":1e-08,"grad_clip":1.0,"lr":1e-05,"min_lr_ratio":0.0,"schedule":"constant","warmup_steps":0,"weight_decay":0.0},)json"
      R"json("prompt":{"style":"plain","system":"","text":"{question}\n"},)json"
      R"json("quant":{"apply_during":"both","backward":"fp32","blocking":"row","exclude":[],"format":"none","hadamard":false,"hook":"pre","injection_point":"both","mode":"","non_finite":"propagate","rounding":"nearest","skip_first_layers":0,"skip_last_layers":0,"ste":true,"targets":["q_proj","k_proj","v_proj","o_proj","gate_proj","up_proj","down_proj"],"tensor_scale":"tensor"},)json"
      R"json("reward":{"argv":[],"scorer":"verl","timeout":60.0},)json"
      R"json("rollout":{"batch_invariant":false,"batch_size":0,"max_prompt_length":1024,"max_response_length":1024,"min_p":0.0,"samples_per_prompt":8,"temperature":1.0,"top_k":0,"top_p":1.0},)json"
      R"json("schedule":{"executor":"local","gpus":0,"group":"","memory":0,"retry.backoff":30.0,"retry.backoff_max":3600.0,"retry.code":0,"retry.infrastructure":0,"retry.stalled":0,"slurm_options":[],"stall_timeout":600.0,"time_limit":0.0},)json"
      R"json("train":{"device":"cpu","epochs":0,"memory":"fast","parameters":"lora","ranks":1,"seed":1,"steps":20,"threads":1},)json"
      R"json("trainer":{"argv":[],"kind":"embedded","metrics":"jsonl","metrics_regex":""}})json";
  CHECK(canonical_json(Config{}) == golden);
  CHECK(config_hash(Config{}) == "e17a5fbeb62490740f5aced3964ef64c221f245cff5e64d26751816310903bbc");
}

TEST_CASE("canonical JSON is sorted, without white space, and holds every key") {
  const json root = parsed(Config{});
  CHECK(root.dump() == canonical_json(Config{}));
  std::size_t keys = 0;
  for (const auto& [section, table] : root.items()) keys += table.size();
  CHECK(keys == fields().size());
  for (const std::string& section : section_names()) CHECK(root.contains(section));
}

TEST_CASE("any single field changes the hash") {
  const std::string before = config_hash(Config{});
  std::mt19937_64 random(7);
  for (const Field& field : fields()) {
    Config config;
    INFO(field.key);
    Value value = field.get(config);
    for (int tries = 0; value == field.get(Config{}) && tries < 100; ++tries) value = random_value(field, random);
    if (field.key == "schedule.executor") continue;  // has one value so far
    REQUIRE(value != field.get(Config{}));
    field.set(config, value);
    CHECK(config_hash(config) != before);
  }
}

TEST_CASE("a configuration that an older assay froze means what it meant then") {
  // Of a run of 25 November 2026, before checkpoints, ranks, executors and noise.
  std::ifstream in(std::string(ASSAY_SOURCE_DIR) + "/tests/golden/config/2026-11-23.json");
  const json frozen = json::parse(in);
  const Config config = config_from_json(frozen);
  const json now = parsed(config);
  for (const auto& [section, table] : frozen.items())
    for (const auto& [name, value] : table.items()) CHECK(now.at(section).at(name) == value);
  CHECK(config.checkpoint.every == 0);   // not its default: there were none
  CHECK_FALSE(config.checkpoint.keep_best);
  CHECK(config.train.ranks == 1);
  CHECK(config.noise.kind == "none");
  CHECK(config.schedule.executor == "local");
  // None of its own keys may go missing, or it was damaged.
  for (const auto& [section, table] : frozen.items())
    for (const auto& [name, value] : table.items()) {
      json damaged = frozen;
      damaged[section].erase(name);
      CHECK_THAT(refusal(damaged), has("'" + section + "." + name + "' is missing"));
    }
}

TEST_CASE("config_from_json names what is wrong") {
  const json right = parsed(Config{});
  CHECK(refusal(right) == "");
  CHECK(refusal(json::array()) == "config: not an object");

  json wrong = right;
  wrong["quant"].erase("ste");
  CHECK(refusal(wrong) == "config: 'quant.ste' is missing");
  wrong = right;  // a run from before these keys was as their defaults say
  for (const char* key : {"rounding", "hadamard", "non_finite", "backward"}) wrong["quant"].erase(key);
  CHECK(canonical_json(config_from_json(wrong)) == canonical_json(Config{}));
  wrong = right;
  wrong.erase("quant");
  CHECK_THAT(refusal(wrong), has("config: 'quant.format' is missing"));
  wrong = right;
  wrong["quant"]["stee"] = true;
  CHECK(refusal(wrong) == "config: unknown key 'quant.stee'; did you mean 'quant.ste'?");
  wrong = right;
  wrong["quamt"] = json::object();
  CHECK(refusal(wrong) == "config: unknown key 'quamt'; did you mean 'quant'?");
  wrong = right;
  wrong["quant"] = 3;
  CHECK(refusal(wrong) == "config: 'quant' is not an object");
  wrong = right;
  wrong["quant"]["ste"] = 1;
  CHECK(refusal(wrong) == "config: 'quant.ste': wanted true or false, got the integer 1");
  wrong = right;
  wrong["grpo"]["train_batch_size"] = 1.0;
  CHECK(refusal(wrong) == "config: 'grpo.train_batch_size': wanted an integer from 1 to 1000000000, got the number 1.0");
  wrong["grpo"]["train_batch_size"] = 0;
  CHECK_THAT(refusal(wrong), has("wanted an integer from 1 to 1000000000, got the integer 0"));
  wrong["grpo"]["train_batch_size"] = nullptr;
  CHECK_THAT(refusal(wrong), has("got null"));
  wrong["grpo"]["train_batch_size"] = 18446744073709551615u;
  CHECK_THAT(refusal(wrong), has("'grpo.train_batch_size': wanted an integer"));
  wrong = right;
  wrong["optimizer"]["lr"] = 1;  // an integer is a number
  CHECK(refusal(wrong) == "");
  wrong["quant"]["targets"] = {"q_proj", 3};
  CHECK_THAT(refusal(wrong), has("'quant.targets': wanted a list of"));
}

TEST_CASE("zero is one number") {
  Config config;
  const Field& field = *find_field("optimizer.weight_decay");
  field.set(config, std::get<Value>(accept(field, -0.0)));
  CHECK(config_hash(config) == config_hash(Config{}));
}

TEST_CASE("derived values round-trip") {
  Derived derived{"/m", "/a", "/b", 6, 84, 42, 84, 4};
  const json root = json::parse(derived_json(derived));
  CHECK(derived_json(derived_from_json(root)) == derived_json(derived));
  json wrong = root;
  wrong.erase("layers");
  CHECK_THROWS_WITH(derived_from_json(wrong), "derived: 'layers' is missing");
  wrong = root;
  wrong["model_path"] = 1;
  CHECK_THROWS_WITH(derived_from_json(wrong), "derived: 'model_path' is of a wrong type");
  CHECK_THROWS_WITH(derived_from_json(json(3)), "derived: not an object");
}

TEST_CASE("the label says what arithmetic an accuracy was measured under, and no more") {
  QuantConfig q;
  q.ste = false;
  CHECK(quant_label(q) == "none");
  q.format = "nvfp4";
  q.hook = "post";
  CHECK(quant_label(q) == "nvfp4/te W4A4 post row no-ste");
  q.mode = "te";
  CHECK(quant_label(q) == "nvfp4/te W4A4 post row no-ste");
  q.ste = true;
  q.hook = "pre";
  q.blocking = "column";
  CHECK(quant_label(q) == "nvfp4/te W4A4 pre column ste");
  q.tensor_scale = "row";
  q.apply_during = "training";
  CHECK(quant_label(q) == "nvfp4/te W4A4 pre column ste row-scale training-only");
  q.injection_point = "weight";  // hook, estimator and the activations' scale say nothing then
  q.apply_during = "both";
  CHECK(quant_label(q) == "nvfp4/te W4A16 column");
  q.injection_point = "activation";
  q.mode = "";
  q.format = "mxfp4";
  q.targets = {"up_proj"};
  q.exclude = {"^.*\\.base_layer$"};
  CHECK(quant_label(q) == "mxfp4/floor W16A4 pre ste on up_proj except ^.*\\.base_layer$");
  q = {};
  q.format = "nvfp4";
  q.blocking = "2d";
  q.rounding = "stochastic";
  q.hadamard = true;
  q.non_finite = "hw_saturate";
  q.backward = "fp4";  // says nothing about an accuracy
  CHECK(quant_label(q) == "nvfp4/te W4A4 pre 2d ste stochastic hadamard hw-saturate");
}
