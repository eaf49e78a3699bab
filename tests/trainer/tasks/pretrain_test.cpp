#include "trainer/tasks/pretrain.h"

#include <cmath>
#include <set>

#include "support/files.h"
#include "support/model_folder.h"
#include "tests/catch.h"
#include "trainer/model/decoder.h"

using namespace assay::train;
using namespace assay::train::tasks;
namespace fs = std::filesystem;

namespace {

TaskConfig tiny() {
  TaskConfig config = TaskConfig::read(assay::test::source("experiments/e13/pretrain.toml"));
  config.problems.train = 20;
  config.problems.test = 24;
  config.model.hidden = 32;
  config.model.layers = 2;
  config.model.heads = 2;
  config.model.kv_heads = 1;
  config.model.intermediate = 48;
  config.training.steps = 5;
  config.training.batch = 4;
  config.training.bucket = 2;
  config.training.warmup = 2;
  config.training.threads = 1;
  return config;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

}  // namespace

TEST_CASE("the same config gives the same bytes, another seed others") {
  const fs::path folder = assay::test::fresh_folder("pretrain-bytes");
  TaskConfig config = tiny();
  const PretrainResult a = pretrain(config, folder / "a", "rev", {});
  const PretrainResult b = pretrain(config, folder / "b", "rev", {});
  const std::set<std::string> files = {"README.md", "config.json", "generation_config.json", "model.safetensors",
                                       "tokenizer.json", "tokenizer_config.json"};
  CHECK(names_in(folder / "a") == files);
  CHECK(names_in(folder) == std::set<std::string>{"a", "b"});  // no temporary folder is left
  for (const std::string& file : files) {
    INFO(file);
    CHECK(assay::support::sha256_file(folder / "a" / file) == assay::support::sha256_file(folder / "b" / file));
  }
  CHECK(a.loss == b.loss);
  CHECK(a.tokens == b.tokens);
  std::int64_t problems = 0;
  for (const TopicAccuracy& topic : a.accuracy) problems += topic.problems;
  CHECK(problems == config.problems.test);

  config.training.seed += 1;
  pretrain(config, folder / "c", "rev", {});
  CHECK(assay::support::sha256_file(folder / "a" / "model.safetensors") !=
        assay::support::sha256_file(folder / "c" / "model.safetensors"));
}

TEST_CASE("the folder is an ordinary Hugging Face folder that the decoder reads") {
  const fs::path folder = assay::test::fresh_folder("pretrain-folder");
  const TaskConfig config = tiny();
  const PretrainResult result = pretrain(config, folder / "m", "", {});
  const ModelShape shape = ModelShape::read(folder / "m");
  CHECK(shape.family == "qwen2");
  CHECK(shape.hidden == 32);
  CHECK(shape.layers == 2);
  CHECK(shape.tied);
  CHECK(shape.eos_ids == std::vector<std::int32_t>{0});
  const assay::support::ModelFolder checkpoint = assay::support::ModelFolder::open(folder / "m");
  CHECK(checkpoint.find("lm_head.weight") == nullptr);
  REQUIRE(checkpoint.find("model.layers.1.self_attn.k_proj.bias") != nullptr);
  std::int64_t parameters = 0;
  for (const std::string& name : checkpoint.names()) {
    std::int64_t size = 1;
    for (const auto extent : checkpoint.find(name)->shape) size *= extent;
    parameters += size;
  }
  CHECK(parameters == result.parameters);
  const Decoder decoder = Decoder::load(folder / "m");
  CHECK(decoder.shape().vocabulary == shape.vocabulary);
}

TEST_CASE("pretraining lowers the loss") {
  TaskConfig config = tiny();
  config.training.steps = 80;
  config.training.batch = 16;
  std::vector<double> losses;
  pretrain(config, assay::test::fresh_folder("pretrain-loss") / "m", "",
           [&](const PretrainStep& step) { losses.push_back(step.loss); });
  REQUIRE(losses.size() == 80);
  CHECK(losses.front() == Approx(std::log(429.0)).margin(0.1));  // a fresh model knows nothing of the vocabulary
  CHECK(losses.back() < 0.6 * losses.front());
}

TEST_CASE("a folder is replaced as a whole, and stays as it was when pretraining fails") {
  const fs::path out = assay::test::fresh_folder("pretrain-replace") / "m";
  fs::create_directories(out);
  assay::support::write_file_atomically(out / "model.safetensors", "old");
  assay::support::write_file_atomically(out / "notes.txt", "mine");
  TaskConfig config = tiny();
  config.model.max_positions = 8;
  CHECK_THROWS_WITH(pretrain(config, out, "", {}), Catch::Contains("model.max_positions = 8"));
  CHECK(assay::support::read_file(out / "model.safetensors") == "old");
  config = tiny();
  config.tokenizer = out / "none";
  CHECK_THROWS(pretrain(config, out, "", {}));
  CHECK(names_in(out) == std::set<std::string>{"model.safetensors", "notes.txt"});

  pretrain(tiny(), out, "", {});
  CHECK(assay::support::read_file(out / "model.safetensors") != "old");
  CHECK(assay::support::read_file(out / "notes.txt") == "mine");
  CHECK(names_in(out.parent_path()) == std::set<std::string>{"m"});
}

TEST_CASE("the learning rate warms up, then follows a cosine") {
  PretrainingConfig t;
  t.lr = 2;
  t.steps = 1000;
  t.warmup = 10;
  t.final_lr = 0.1;
  CHECK(pretraining_lr(t, 1) == Approx(0.2));
  CHECK(pretraining_lr(t, 501) == Approx(2 * (0.5 * 0.9 + 0.1)));
  CHECK(pretraining_lr(t, 1000) == Approx(0.2).epsilon(1e-3));
  for (std::int64_t step = 11; step <= 1000; ++step) CHECK(pretraining_lr(t, step) <= pretraining_lr(t, step - 1));
}
