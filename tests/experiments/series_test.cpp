#include "experiments/spec/series.h"

#include <nlohmann/json.hpp>

#include "experiments/spec/canonical.h"
#include "reading.h"

using namespace assay;
using namespace assay::test;
namespace fs = std::filesystem;

namespace {

fs::path with_model(const fs::path& folder, int layers) {
  write(folder / "config.json", "{\"num_hidden_layers\": " + std::to_string(layers) + "}");
  return folder;
}

}  // namespace

TEST_CASE("a series in full") {
  const fs::path folder = fresh_folder("series-full");
  with_model(folder / "model", 6);
  const std::string text = R"([series]
id = "demo"
title = "A demonstration"
goal = "To show"
notes = "None"
dates = [2026-01-14, "mid January"]
next_steps = ["one", "two"]
success_accuracy = 60
cause_margin = 0.2

[base.model]
path = "model"
[base.data]
train = "../data/train.jsonl"
test = "/data/test.jsonl"
[base.grpo]
train_batch_size = 10
mini_batch_size = 4

[[run]]
id = "plain"

[[run]]
id = "fp4"
title = "FP4"
hypothesis = "It works"
change = { "quant.format" = "nvfp4", quant.ste = false, lora = { rank = 8 } }
baseline = "plain"
published = { first = 8, last = 60.88 }
verdict = "works"
conclusion = "It does"

[[run]]
id = "fp4-ste"
base = "fp4"
change = { "quant.ste" = true }
change_in_words = "estimator on"
baseline = "fp4"

[[cause]]
name = "estimator"
run = "fp4-ste"
against = "fp4"
note = "one key"
)";
  const spec::Series s = good(write(folder / "demo.toml", text));
  CHECK(s.id == "demo");
  CHECK(s.title == "A demonstration");
  CHECK(s.goal == "To show");
  CHECK(s.notes == "None");
  CHECK(s.dates == std::vector<std::string>{"2026-01-14", "mid January"});
  CHECK(s.next_steps == std::vector<std::string>{"one", "two"});
  CHECK(s.success_accuracy == 60);
  CHECK(s.cause_margin == 0.2);
  CHECK(s.source == text);
  CHECK(s.file == folder / "demo.toml");
  CHECK(s.bases.empty());
  REQUIRE(s.runs.size() == 3);
  REQUIRE(s.causes.size() == 1);
  CHECK(s.causes[0].name == "estimator");
  CHECK(s.causes[0].run == "fp4-ste");
  CHECK(s.causes[0].against == "fp4");
  CHECK(s.causes[0].note == "one key");

  const spec::RunSpec &plain = s.runs[0], &fp4 = s.runs[1], &ste = s.runs[2];
  CHECK(plain.baseline.empty());
  CHECK(plain.baseline_series.empty());
  CHECK(plain.changed.empty());
  CHECK(plain.config.quant.mode.empty());
  CHECK(plain.derived.quantized_modules == 0);
  CHECK(plain.derived.adapter_tensors == 84);
  CHECK(plain.derived.updates_per_step == 3);
  CHECK(plain.derived.model_path == (folder / "model").string());
  CHECK(plain.derived.train_path == (folder.parent_path() / "data/train.jsonl").string());
  CHECK(plain.derived.test_path == "/data/test.jsonl");
  CHECK(plain.config.model.path == "model");

  CHECK(fp4.title == "FP4");
  CHECK(fp4.hypothesis == "It works");
  CHECK(fp4.verdict == "works");
  CHECK(fp4.conclusion == "It does");
  CHECK(fp4.published.first == 8.0);
  CHECK(fp4.published.last == 60.88);
  CHECK(fp4.config.quant.mode == "te");
  CHECK(fp4.baseline == "plain");
  CHECK(fp4.baseline_series == "demo");
  CHECK(fp4.changed == std::map<std::string, std::string>{{"quant.format", "\"none\" -> \"nvfp4\""},
                                                          {"quant.ste", "true -> false"},
                                                          {"lora.rank", "16 -> 8"}});
  CHECK(fp4.change == "lora.rank: 16 -> 8, quant.format: \"none\" -> \"nvfp4\", quant.ste: true -> false");
  CHECK(fp4.derived.quantized_modules == 84);
  CHECK(fp4.derived.quantized_projections == 42);
  CHECK(fp4.derived.layers == 6);

  CHECK(ste.change == "estimator on");
  CHECK(ste.changed == std::map<std::string, std::string>{{"quant.ste", "false -> true"}});
  CHECK(ste.config.lora.rank == 8);
  CHECK_FALSE(ste.published.first);
}

TEST_CASE("an ablation is a file of five lines") {
  const fs::path folder = fresh_folder("five-lines");
  const spec::Series s = good(write(folder / "my-ablation.toml", R"(id = "e13g-no-clip-higher"
base = "e13/e13g-nvfp4"
hypothesis = "Clip-higher is not what makes e13g work."
change = { "grpo.clip_ratio_high" = 0.2 }
baseline = "e13g-nvfp4"
)"));
  const spec::Series e13 = good(source("experiments/e13/e13.toml"));
  CHECK(s.id == "e13g-no-clip-higher");
  CHECK(s.success_accuracy == e13.success_accuracy);
  REQUIRE(s.runs.size() == 1);
  const spec::RunSpec &run = s.runs[0], &g = run_of(e13, "e13g-nvfp4");
  CHECK(run.id == "e13g-no-clip-higher");
  CHECK(run.baseline == "e13g-nvfp4");
  CHECK(run.baseline_series == "e13");
  CHECK(run.changed.size() == 1);
  CHECK(run.changed.contains("grpo.clip_ratio_high"));
  CHECK(run.derived.model_path == g.derived.model_path);
  CHECK(run.derived.test_path == g.derived.test_path);
  spec::Config config = run.config;
  config.grpo.clip_ratio_high = g.config.grpo.clip_ratio_high;
  CHECK(spec::config_hash(config) == spec::config_hash(g.config));
  REQUIRE(s.bases.size() == 1);
  CHECK(s.bases[0].path.filename() == "e13.toml");
  CHECK(s.bases[0].text == e13.source);
}

TEST_CASE("bases: other series, whole or one run, by id or by path; chains of files") {
  const fs::path folder = fresh_folder("bases");
  write(folder / "lib/ground.toml", "[series]\nid = \"ground\"\n[base]\nmodel.path = \"m\"\n"
                                    "data = { train = \"a\", test = \"b\" }\ntrain.steps = 7\n"
                                    "[[run]]\nid = \"r\"\nbaseline = \"\"\nchange = { \"train.seed\" = 5 }\n");
  const fs::path file = write(folder / "top.toml", "[series]\nid = \"top\"\nbase = \"lib/ground.toml\"\n"
                                                   "[base]\ntrain.threads = 2\ndata.test = \"mine\"\n"
                                                   "[[run]]\nid = \"x\"\n"
                                                   "[[run]]\nid = \"y\"\nbase = \"lib/ground.toml/r\"\n"
                                                   "[[run]]\nid = \"z\"\nbase = \"top/x\"\nbaseline = \"r\"\n"
                                                   "[[run]]\nid = \"w\"\nbase = \"top\"\nbaseline = \"top/y\"\n");
  const spec::Series s = good(file);
  const spec::RunSpec &x = run_of(s, "x"), &y = run_of(s, "y"), &z = run_of(s, "z"), &w = run_of(s, "w");
  CHECK(x.config.train.steps == 7);
  CHECK(x.config.train.threads == 2);
  CHECK(x.derived.model_path == (folder / "lib/m").string());
  CHECK(x.derived.train_path == (folder / "lib/a").string());
  CHECK(x.derived.test_path == (folder / "mine").string());
  CHECK(y.config.train.seed == 5);
  CHECK(y.config.train.threads == 1);
  CHECK(y.derived.test_path == (folder / "lib/b").string());
  CHECK(z.baseline_series == "ground");
  CHECK(z.changed == std::map<std::string, std::string>{{"train.seed", "5 -> 1"},
                                                        {"train.threads", "1 -> 2"},
                                                        {"data.test", "\"b\" -> \"mine\""}});
  CHECK(spec::config_hash(w.config) == spec::config_hash(x.config));
  CHECK(w.baseline == "y");
  CHECK(s.bases.size() == 1);

  const spec::Series single = good(write(folder / "single.toml", "id = \"s\"\nbase = \"top.toml/z\"\nbaseline = \"r\"\n"));
  CHECK(single.runs[0].baseline_series == "ground");  // found in the series that top is based on
  CHECK(single.bases.size() == 2);
}

TEST_CASE("paths that are written alike and lead elsewhere are a difference") {
  const fs::path folder = fresh_folder("same-words");
  const std::string text = "[base]\nmodel.path = \"m\"\ndata = { train = \"a\", test = \"b\" }\n[[run]]\nid = \"r\"\n";
  write(folder / "one/one.toml", "[series]\nid = \"one\"\n" + text);
  const spec::Series s = good(write(folder / "two/two.toml", "[series]\nid = \"two\"\n" + text +
                                                                 "baseline = \"../one/one.toml/r\"\n"));
  CHECK(s.runs[0].changed.at("model.path") ==
        "\"" + (folder / "one/m").string() + "\" -> \"" + (folder / "two/m").string() + "\"");
}

TEST_CASE("a mode follows its format unless it is named") {
  const fs::path folder = fresh_folder("modes");
  const spec::Series s = good(write(folder / "s.toml", minimal + R"(
[[run]]
id = "nvfp4"
change = { "quant.format" = "nvfp4" }
baseline = ""
[[run]]
id = "mxfp4"
base = "nvfp4"
change = { "quant.format" = "mxfp4" }
baseline = "nvfp4"
[[run]]
id = "one-level"
base = "nvfp4"
change = { "quant.mode" = "torchao_one_level" }
baseline = "nvfp4"
[[run]]
id = "off"
base = "one-level"
change = { "quant.format" = "none" }
baseline = "one-level"
)"));
  CHECK(run_of(s, "nvfp4").config.quant.mode == "te");
  CHECK(run_of(s, "mxfp4").config.quant.mode == "floor");
  CHECK(run_of(s, "mxfp4").changed.size() == 1);
  CHECK(run_of(s, "one-level").changed.at("quant.mode") == "\"te\" -> \"torchao_one_level\"");
  CHECK(run_of(s, "off").config.quant.mode.empty());
}

TEST_CASE("--set applies to every run, after everything else") {
  const fs::path folder = fresh_folder("overrides");
  const fs::path file = write(folder / "s.toml", minimal + "[[run]]\nid = \"a\"\nchange = { \"train.steps\" = 3 }\n"
                                                           "baseline = \"\"\n"
                                                           "[[run]]\nid = \"b\"\nchange = { \"quant.ste\" = false }\n"
                                                           "baseline = \"a\"\n");
  const InFolder here(folder);
  fs::create_directories("elsewhere");
  write("elsewhere/config.json", "{\"num_hidden_layers\": 3}");
  const spec::Series s = good(file, {{"train.steps", "2"},
                                     {"optimizer.lr", "1"},
                                     {"quant.format", "nvfp4"},
                                     {"quant.exclude", "['^.*\\.base_layer$']"},
                                     {"model.path", "elsewhere"},
                                     {"data.train", "17"},
                                     {"train.steps", "4"}});
  for (const spec::RunSpec& run : s.runs) {
    CHECK(run.config.train.steps == 4);
    CHECK(run.config.optimizer.lr == 1.0);
    CHECK(run.config.quant.mode == "te");
    CHECK(run.config.quant.exclude.size() == 1);
    CHECK(run.config.data.train == "17");
    CHECK(run.derived.model_path == (folder / "elsewhere").string());
    CHECK(run.derived.quantized_modules == 21);
  }
  CHECK(s.runs[1].changed == std::map<std::string, std::string>{{"quant.ste", "true -> false"}});

  // Two runs that become equal are what was asked for.
  CHECK(good(file, {{"quant.ste", "true"}, {"train.steps", "3"}}).runs[1].changed.empty());
}

TEST_CASE("errors of --set name the option") {
  const fs::path folder = fresh_folder("bad-overrides");
  const fs::path file = write(folder / "s.toml", minimal + "[[run]]\nid = \"a\"\n");
  CHECK(bad(file, {{"quant.stee", "true"}}) ==
        "--set quant.stee=true: unknown key 'quant.stee'; did you mean 'quant.ste'?\n");
  CHECK(bad(file, {{"quant.ste", "maybe"}}) ==
        "--set quant.ste=maybe: quant.ste: wanted true or false, got the string \"maybe\"\n");
  CHECK(bad(file, {{"train.steps", "0"}}) ==
        "--set train.steps=0: train.steps: wanted an integer from 1 to 1000000000, got the integer 0\n");
  CHECK(bad(file, {{"train.steps", "2\ntrain.seed = 3"}}) ==
        "--set train.steps=2\ntrain.seed = 3: train.steps: wanted an integer from 1 to 1000000000, got the string "
        "\"2\\ntrain.seed = 3\"\n");
  CHECK_THAT(bad(file, {{"quant.smooth", "0.1"}}), has("--set quant.smooth=0.1: 'quant.smooth' is known but not implemented"));
  CHECK_THAT(bad(file, {{"quant", "x"}}), has("--set quant=x: unknown key 'quant'"));
  CHECK_THAT(bad(file, {{"", ""}}), has("--set =: unknown key ''"));
  CHECK_THAT(bad(file, {{"prompt.text", "\"\xff\""}}), has("not UTF-8"));
  CHECK_THAT(bad(file, {{"grpo.mini_batch_size", "500"}}),
             has("--set grpo.mini_batch_size=500: grpo.mini_batch_size (500) is larger than grpo.train_batch_size (128)"));
  // With errors of the file too: all at once, the file first.
  const fs::path worse = write(folder / "worse.toml", minimal + "[[run]]\nid = \"a\"\nextra = 1\n");
  const std::string text = bad(worse, {{"quant.stee", "true"}});
  CHECK_THAT(text, has("worse.toml:8:1: [[run]]: unknown key 'extra'\n--set quant.stee=true: "));
}

TEST_CASE("a model folder that is not there leaves counts open; a wrong one too") {
  const fs::path folder = fresh_folder("no-model");
  const std::string run = "quant.format = \"nvfp4\"\nquant.exclude = [\"model.layers.99.mlp.up_proj\"]\n[[run]]\nid = \"a\"\n";
  const fs::path file = write(folder / "s.toml", minimal + run);
  for (const std::string config : {"", "{", "[]", "{}", "{\"num_hidden_layers\": \"6\"}", "{\"num_hidden_layers\": -1}",
                                   "{\"num_hidden_layers\": 1e9}", "{\"num_hidden_layers\": 1000000}"}) {
    INFO(config);
    if (!config.empty()) write(folder / "model/config.json", config);
    const spec::Series s = good(file);
    CHECK(s.runs[0].derived.layers == -1);
    CHECK(s.runs[0].derived.quantized_modules == -1);
    CHECK(s.runs[0].derived.adapter_tensors == -1);
    CHECK_FALSE(spec::missing_to_run(s.runs[0].config, s.runs[0].derived).empty());
  }
  write(folder / "model/config.json", "{\"num_hidden_layers\": 100}");
  CHECK(good(file).runs[0].derived.quantized_modules == 1399);
}

TEST_CASE("a trainer of another kind needs neither model nor data") {
  const fs::path folder = fresh_folder("command");
  const spec::Series s = good(write(folder / "s.toml", "[series]\nid = \"s\"\n[base.trainer]\nkind = \"command\"\n"
                                                       "argv = [\"sh\", \"-c\", \"true\"]\n[[run]]\nid = \"a\"\n"));
  CHECK(s.runs[0].config.trainer.argv.size() == 3);
  CHECK(s.runs[0].derived.model_path.empty());
  CHECK(spec::missing_to_run(s.runs[0].config, s.runs[0].derived).empty());
}

TEST_CASE("a thousand runs that build on each other in a chain are refused, side by side they are read") {
  const fs::path folder = fresh_folder("many");
  std::string chain = minimal, wide = minimal;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = "r" + std::to_string(i);
    chain += "[[run]]\nid = \"" + id + "\"\nbase = \"r" + std::to_string(i + 1) + "\"\n";
    wide += "[[run]]\nid = \"" + id + "\"\nbaseline = \"\"\nchange = { \"train.seed\" = " + std::to_string(i) + " }\n";
  }
  CHECK(good(write(folder / "wide.toml", wide)).runs.size() == 1000);
  CHECK_THAT(bad(write(folder / "chain.toml", chain + "[[run]]\nid = \"r1000\"\n")),
             has("more than 100 runs build on each other"));
}
