// The series that ship, and the document that describes their format.
#include <map>

#include <nlohmann/json.hpp>

#include "experiments/spec/canonical.h"
#include "experiments/spec/fields.h"
#include "reading.h"
#include "support/files.h"

using namespace assay;
using namespace assay::test;
namespace fs = std::filesystem;

TEST_CASE("every series that ships resolves") {
  for (const char* id : {"e13", "e13-gsm8k", "e13-published", "e13-scripts", "smollm2-words", "smollm2-gsm8k"}) {
    INFO(id);
    const spec::Series s = good(source("experiments") / id / (std::string(id) + ".toml"));
    CHECK(s.id == id);
    CHECK_FALSE(s.title.empty());
    CHECK_FALSE(s.goal.empty());
    for (const spec::RunSpec& run : s.runs) {
      INFO(run.id);
      CHECK_FALSE(run.title.empty());
      CHECK_FALSE(run.hypothesis.empty());
      const auto config = spec::config_from_json(nlohmann::json::parse(spec::canonical_json(run.config)));
      CHECK(spec::config_hash(config) == spec::config_hash(run.config));
    }
  }
}

namespace {

struct Arm {
  const char *id, *baseline, *label;
  std::optional<double> first, last;
  std::vector<std::string> changed;
};

// e13.md and e13-published.md of the design, run by run.
const std::vector<Arm> arms = {
    {"bf16", "", "none", {}, {}, {}},
    {"w4a16-nvfp4", "bf16", "nvfp4/te W4A16 row", {}, {}, {"quant.exclude", "quant.format", "quant.injection_point"}},
    {"w4a16-mxfp4", "bf16", "mxfp4/floor W4A16 row", {}, {}, {"quant.exclude", "quant.format", "quant.injection_point"}},
    {"e13a-mxfp4", "bf16", "mxfp4/floor W4A4 post row no-ste", 8.11, 7.43, {"quant.format"}},
    {"e13a-nvfp4", "e13a-mxfp4", "nvfp4/te W4A4 post row no-ste", 7.58, 9.02, {"quant.format"}},
    {"e13b-nvfp4", "e13a-nvfp4", "nvfp4/te W4A4 post row no-ste", 7.81, 8.34, {}},
    {"e13c-nvfp4", "e13a-nvfp4", "nvfp4/te W4A4 post row no-ste training-only", 7.58, 9.02, {"quant.apply_during"}},
    {"e13d-nvfp4", "e13a-nvfp4", "nvfp4/te W4A4 pre row no-ste", 8.49, {}, {"quant.hook"}},
    {"e13e-nvfp4", "e13d-nvfp4", "nvfp4/te W4A4 pre row no-ste", 7.66, {}, {"quant.exclude"}},
    {"e13f-nvfp4", "e13e-nvfp4", "nvfp4/te W4A4 pre column no-ste", 8.19, 10.39, {"quant.blocking"}},
    {"e13g-nvfp4", "e13f-nvfp4", "nvfp4/te W4A4 pre column ste", 8.11, 60.88, {"quant.ste"}},
    {"e13h-mxfp4", "e13g-nvfp4", "mxfp4/floor W4A4 pre column ste", 7.66, 56.41, {"quant.format"}},
};

void check_arms(const spec::Series& s) {
  REQUIRE(s.runs.size() >= arms.size());
  for (std::size_t i = 0; i < arms.size(); ++i) {
    const spec::RunSpec& run = s.runs[i];
    INFO(arms[i].id);
    CHECK(run.id == arms[i].id);
    CHECK(run.baseline == arms[i].baseline);
    CHECK(run.published.first == arms[i].first);
    CHECK(run.published.last == arms[i].last);
    const std::string label = spec::quant_label(run.config.quant);
    CHECK(label.substr(0, label.find(" except")) == arms[i].label);
    std::vector<std::string> changed;
    for (const auto& [key, unused] : run.changed) changed.push_back(key);
    if (run.id != "e13b-nvfp4") CHECK(changed == arms[i].changed);
    else
      for (const std::string& key : changed) CHECK(key.starts_with("grpo."));
  }
  CHECK(run_of(s, "e13b-nvfp4").config.grpo.train_batch_size == 16);
  CHECK(run_of(s, "e13b-nvfp4").config.grpo.gen_batch_size == 32);
  CHECK(run_of(s, "e13b-nvfp4").config.grpo.filter_groups);
  CHECK(run_of(s, "e13b-nvfp4").derived.updates_per_step == run_of(s, "e13a-nvfp4").derived.updates_per_step);

  std::vector<std::string> pairs;
  for (const spec::Cause& cause : s.causes) pairs.push_back(cause.run + " " + cause.against);
  CHECK(pairs == std::vector<std::string>{"e13a-nvfp4 e13a-mxfp4", "e13b-nvfp4 e13a-nvfp4", "e13c-nvfp4 e13a-nvfp4",
                                          "e13d-nvfp4 e13a-nvfp4", "e13d-nvfp4 e13c-nvfp4", "e13e-nvfp4 e13d-nvfp4",
                                          "e13f-nvfp4 e13e-nvfp4", "e13g-nvfp4 e13f-nvfp4"});
  CHECK_THAT(s.causes[4].note, has("differs in two things"));
}

}  // namespace

TEST_CASE("e13 is the published series on the embedded default") {
  const spec::Series s = good(source("experiments/e13/e13.toml"));
  check_arms(s);
  CHECK_THAT(s.notes, has("every decoder layer is quantized"));
  for (const spec::RunSpec& run : s.runs) CHECK(run.config.train.steps == 20);
  // And the three noise runs on top of e13h, which differ from it in nothing else.
  REQUIRE(s.runs.size() == 15);
  const char* kinds[][3] = {{"e13i-mxfp4", "aqn", "targeted"}, {"e13j-mxfp4", "rin", "targeted"}, {"e13k-mxfp4", "rin", "variable"}};
  for (std::size_t i = 0; i < 3; ++i) {
    const spec::RunSpec& run = s.runs[12 + i];
    CHECK(run.id == kinds[i][0]);
    CHECK(run.baseline == "e13h-mxfp4");
    CHECK(run.config.noise.kind == kinds[i][1]);
    CHECK(run.config.noise.rin == kinds[i][2]);
    spec::Config quiet = run.config;
    quiet.noise = {};
    CHECK(spec::config_hash(quiet) == spec::config_hash(run_of(s, "e13h-mxfp4").config));
  }
}

TEST_CASE("e13-gsm8k is the published setting") {
  const fs::path folder = fresh_folder("gsm8k");
  write(folder / "config.json", "{\"num_hidden_layers\": 28}");
  const fs::path file = source("experiments/e13-gsm8k/e13-gsm8k.toml");
  const spec::Series s = good(file, {{"model.path", folder.string()}});
  check_arms(s);
  CHECK(s.runs.size() == arms.size());
  const auto modules = [&](const char* id) { return run_of(s, id).derived.quantized_modules; };
  for (const char* id : {"e13a-mxfp4", "e13a-nvfp4", "e13b-nvfp4", "e13c-nvfp4", "e13d-nvfp4"}) CHECK(modules(id) == 364);
  for (const char* id : {"e13e-nvfp4", "e13f-nvfp4", "e13g-nvfp4", "e13h-mxfp4", "w4a16-nvfp4"}) CHECK(modules(id) == 182);
  CHECK(run_of(s, "e13a-mxfp4").derived.quantized_projections == 182);
  const spec::Config& c = run_of(s, "e13h-mxfp4").config;
  CHECK(c.lora.rank == 32);
  CHECK(c.lora.alpha == 16);
  CHECK(c.optimizer.lr == 1e-5);
  CHECK(c.optimizer.warmup_steps == 10);
  CHECK(c.optimizer.weight_decay == 0.1);
  CHECK(c.optimizer.grad_clip == 1.0);
  CHECK(c.grpo.train_batch_size == 128);
  CHECK(c.grpo.gen_batch_size == 256);
  CHECK(c.grpo.mini_batch_size == 32);
  CHECK(c.grpo.filter_groups);
  CHECK(c.grpo.max_num_gen_batches == 5);
  CHECK(c.grpo.clip_ratio_low == 0.2);
  CHECK(c.grpo.clip_ratio_high == 0.25);
  CHECK(c.grpo.loss_agg == "token-mean");
  CHECK(c.grpo.overlong_buffer == 256);
  CHECK(c.grpo.overlong_factor == 0.5);
  CHECK(c.rollout.samples_per_prompt == 8);
  CHECK(c.rollout.temperature == 1.0);
  CHECK(c.rollout.max_prompt_length == 1024);
  CHECK(c.rollout.max_response_length == 1024);
  CHECK(c.eval.test_freq == 20);
  CHECK(c.eval.limit == 0);
}

TEST_CASE("e13-gsm8k reads where its model is not, and says what is missing") {
  const spec::Series s = good(source("experiments/e13-gsm8k/e13-gsm8k.toml"), {{"model.path", "nowhere/Qwen2.5-1.5B-Instruct"}});
  for (const spec::RunSpec& run : s.runs) {
    CHECK(run.derived.layers == -1);
    CHECK(run.derived.quantized_modules == -1);
    CHECK_THAT(spec::missing_to_run(run.config, run.derived),
               has("nowhere/Qwen2.5-1.5B-Instruct is not there: put the Hugging Face folder "
                   "Qwen/Qwen2.5-1.5B-Instruct there, or set model.path"));
  }
}

TEST_CASE("SmolLM2's series quantize every projection, once unless the arm is about that") {
  const fs::path folder = fresh_folder("smollm2");
  write(folder / "config.json", "{\"num_hidden_layers\": 30}");
  const auto series = [&](const std::string& id) {
    return good(source("experiments") / id / (id + ".toml"), {{"model.path", folder.string()}});
  };
  std::map<std::string, std::string> label = {
      {"bf16", "none"},
      {"w4a16-nvfp4", "nvfp4/te W4A16 row except ^.*\\.base_layer$"},
      {"a-nvfp4", "nvfp4/te W4A4 post row no-ste row-scale"},
      {"d-nvfp4", "nvfp4/te W4A4 pre row no-ste row-scale"},
      {"f-nvfp4", "nvfp4/te W4A4 pre column no-ste row-scale except ^.*\\.base_layer$"},
      {"g-nvfp4", "nvfp4/te W4A4 pre column ste row-scale except ^.*\\.base_layer$"},
      {"h-mxfp4", "mxfp4/floor W4A4 pre column ste except ^.*\\.base_layer$"}};
  const spec::Series words = series("smollm2-words");
  REQUIRE(words.runs.size() == label.size());
  for (const auto& run : words.runs) {
    INFO(run.id);
    const bool twice = run.id == "a-nvfp4" || run.id == "d-nvfp4";
    CHECK(spec::quant_label(run.config.quant) == label.at(run.id));
    CHECK(run.derived.quantized_projections == (run.id == "bf16" ? 0 : 210));
    CHECK(run.derived.quantized_modules == (run.id == "bf16" ? 0 : twice ? 420 : 210));
    CHECK(run.derived.adapter_tensors == 420);
    CHECK(run.config.train.steps == 20);
  }
  const spec::Series gsm8k = series("smollm2-gsm8k");
  CHECK(gsm8k.runs[0].derived.quantized_modules == 210);
  CHECK(spec::quant_label(gsm8k.runs[0].config.quant) == "nvfp4/te W4A4 pre row ste row-scale except ^.*\\.base_layer$");
  CHECK(gsm8k.runs[0].config.train.steps == 2);
}

// One row of the key table, as docs/series.md has it.
static std::string row(const spec::Field& field) {
  std::string expected = field.expected();
  if (field.rule.kind == spec::Rule::Kind::choice) {
    for (std::size_t at; (at = expected.find('"')) != std::string::npos;) expected[at] = '`';
  }
  std::string initial = spec::as_json(field.get(spec::Config{}));
  if (field.key.ends_with(".targets") && !field.key.starts_with("noise.")) initial = "all seven";
  return "| `" + std::string(field.key) + "` | " + expected + " | `" + initial + "` | " + std::string(field.help) + " |";
}

TEST_CASE("docs/series.md lists every key with its type, default and meaning") {
  const std::string text = support::read_file(source("docs/series.md"));
  std::string table;
  for (const spec::Field& field : spec::fields()) table += row(field) + "\n";
  if (text.find(table) == std::string::npos) FAIL("docs/series.md lacks this table, line for line:\n" << table);
  SUCCEED();
}
