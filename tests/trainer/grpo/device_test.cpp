// train.device = "cuda": whole runs as on a GPU, by LibTorch's operations and with an accelerator that records what is to be done,
// but on the CPU, against runs by the kernels; on a GPU where there is one; and what is said where there is none.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/catch.h"
#include "tests/trainer/grpo/thread_ranks.h"
#include "tests/trainer/grpo/tiny_run.h"
#include "tests/trainer/model/recorder.h"
#include "trainer/cuda/loader.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/train.h"

namespace assay::test {
namespace {

using namespace train;

// Metrics of both runs, step by step and key by key, and the adapters. fp32 in two orders of sums, carried through two updates
// with a learning rate that moves each weight by 1e-2: Adam's first steps divide a gradient by its own size, so a weight whose
// gradient is all rounding moves as far as any other.
void same_run(const fs::path& a, const fs::path& b, double tolerance = 1e-3) {
  const auto first = metrics_of(a), second = metrics_of(b);
  REQUIRE(first.size() == second.size());
  for (const auto& [step, metrics] : first) {
    REQUIRE(second.count(step) == 1);
    for (const auto& [key, value] : metrics) {
      INFO("step " << step << " " << key);
      REQUIRE(second.at(step).count(key) == 1);
      const double x = value.get<double>(), y = second.at(step).at(key).get<double>();
      CHECK(std::abs(x - y) <= tolerance * std::max(0.05, std::abs(x)));
    }
  }
  CHECK(read_text(a / "samples" / "step-000001.jsonl") == read_text(b / "samples" / "step-000001.jsonl"));
}

json started(const fs::path& run) {
  for (const json& line : read_lines(run / "events.jsonl"))
    if (line.at("kind") == "started") return line.contains("data") ? line.at("data") : line;
  return json::object();
}

spec::Config short_run() {
  spec::Config config = tiny_config();
  config.train.device = "cpu";  // whatever else runs in this program
  config.train.steps = 2;
  config.train.threads = 1;  // operations this small would spend their time waiting for each other's threads
  config.optimizer.warmup_steps = 0;
  config.checkpoint.every = 1;
  return config;
}

// What runs are compared in. Within a test case: a section each.
void with_arm(spec::Config& config, double dropout) {
  SECTION("not quantized") {}
  SECTION("quantized weights") {
    config.quant.format = "nvfp4";
    config.quant.injection_point = "weight";
  }
  SECTION("all that a loss is made of, noise and dropout") {
    config.grpo.kl_coef = 0.05;
    config.grpo.entropy_coef = 0.01;
    config.grpo.rollout_is = "token";
    config.grpo.micro_batch_size = 2;
    config.lora.dropout = dropout;
    config.noise.kind = "aqn";
    config.noise.stages = 2;
    config.rollout.batch_size = 16;
    config.rollout.top_k = 30;
    config.rollout.top_p = 0.95;
  }
  SECTION("all weights") {
    config.train.parameters = "full";
    config.grpo.kl_coef = 0.05;
    config.optimizer.lr = 1e-4;
  }
}

bool gpu_is_here() {
  if (open_gpu().accelerator) return true;
  std::printf("SKIPPED: no GPU: %s\n", open_gpu().missing.c_str());
  return false;
}

// A run that is ended behind its first step and goes on, against one that is not ended.
void goes_on(spec::Config config, TrainOptions options) {
  config.checkpoint.keep_last = 5;
  const fs::path whole = make_run("device-whole", config), resumed = make_run("device-resumed", config);
  REQUIRE(train::train(whole, options) == exit_finished);
  // As it is after the first step: the second's checkpoint and what came of it are not there.
  REQUIRE(train::train(resumed, options) == exit_finished);
  for (const char* late : {"adapter", "checkpoints/step-000002"}) fs::remove_all(resumed / late);
  std::string events;
  for (const auto& line : read_lines(resumed / "events.jsonl"))
    if (line["kind"] != "finished") events += line.dump() + "\n";
  write_text(resumed / "events.jsonl", events);
  options.resume = true;
  REQUIRE(train::train(resumed, options) == exit_finished);
  const auto kinds = event_kinds(resumed);
  CHECK(std::count(kinds.begin(), kinds.end(), "resumed") == 1);
  CHECK(metrics_of(whole) == metrics_of(resumed));
  CHECK(read_text(whole / "adapter" / "adapter_model.safetensors") == read_text(resumed / "adapter" / "adapter_model.safetensors"));
}

}  // namespace

TEST_CASE("device: a run by LibTorch's operations is the run by the kernels", "[device]") {
  spec::Config config = short_run();
  with_arm(config, /*dropout=*/0.1);
  const fs::path kernels = make_run("device-kernels", config), aten = make_run("device-aten", config);
  Recorder recorder;
  REQUIRE(train::train(kernels) == exit_finished);
  TrainOptions options;
  options.stand_in = &recorder;
  REQUIRE(train::train(aten, options) == exit_finished);
  CHECK(recorder.captures > 2);
  CHECK(recorder.replays > 2);
  same_run(kernels, aten);
  CHECK(started(aten).at("kernels") == "a recorder");
}

TEST_CASE("device: W4A4 with activations quantized", "[device]") {
  // Two orders of sums, and a value on the border between two codes goes the other way: what is drawn differs here and there. So it
  // is only asked that it runs, learns with all its tensors and agrees about itself.
  spec::Config config = short_run();
  config.quant.format = "nvfp4";
  config.quant.hook = "pre";
  config.quant.ste = true;
  config.quant.tensor_scale = "row";
  const fs::path run = make_run("device-w4a4", config);
  Recorder recorder;
  TrainOptions options;
  options.stand_in = &recorder;
  REQUIRE(train::train(run, options) == exit_finished);
  const auto metrics = metrics_of(run);
  for (const int step : {1, 2}) {
    CHECK(metrics.at(step).at("actor/grad_tensors") == metrics.at(step).at("actor/adapter_tensors"));
    CHECK(metrics.at(step).at("actor/first_ratio_max_deviation").get<double>() < 1e-4);
  }
}

TEST_CASE("device: a run that goes on from a checkpoint has the bits of one that was never ended", "[device]") {
  Recorder recorder;
  TrainOptions options;
  options.stand_in = &recorder;
  goes_on(short_run(), options);
}

TEST_CASE("device: two ranks are one within float summation", "[device]") {
  // Ranks as threads, whose gradients go the way that they go between GPUs, NCCL's calls apart.
  spec::Config config = short_run();
  config.grpo.train_batch_size = 9;  // shares of different size
  const fs::path one = make_run("device-rank", config), two = make_run("device-ranks", config), again = make_run("device-ranks-again", config);
  config.train.ranks = 2;
  for (const fs::path& run : {two, again}) write_text(run / "config.json", spec::canonical_json(config));
  Recorder alone;
  TrainOptions options;
  options.stand_in = &alone;
  REQUIRE(train::train(one, options) == exit_finished);
  for (const fs::path& run : {two, again}) {
    Hub hub(2);
    Wires wires(2);
    std::vector<int> codes(2, -1);
    hub.run([&](Ranks& ranks) {
      const auto shared = std::make_shared<Ranks>(std::move(ranks));
      connect(*shared, wires);
      Recorder recorder;
      TrainOptions own;
      own.stand_in = &recorder;
      own.ranks = shared;
      codes[static_cast<std::size_t>(shared->rank())] = train::train(run, own);
    });
    CHECK(codes == std::vector<int>{exit_finished, exit_finished});
    CHECK(wires.transfers() == 2 * 2 * 3);  // two a sum; three mini-batches in each of two steps
  }
  CHECK(metrics_of(two) == metrics_of(again));
  CHECK(read_text(two / "adapter" / "adapter_model.safetensors") == read_text(again / "adapter" / "adapter_model.safetensors"));
  same_run(one, two);
}

TEST_CASE("device: without a GPU a run is refused in one sentence", "[device]") {
  if (open_gpu().accelerator) {
    std::printf("SKIPPED: there is a GPU here\n");
    return;
  }
  spec::Config config = short_run();
  config.train.device = "cuda";
  const fs::path run = make_run("device-none", config);
  std::string said;
  try {
    train::train(run);
  } catch (const BadInput& error) {
    said = error.what();
  }
  INFO(said);
  CHECK(said.starts_with("train.device = \"cuda\": "));
  CHECK(said.ends_with("set train.device = \"cpu\""));
  CHECK(said.find('\n') == std::string::npos);
  CHECK_FALSE(torch_folders().empty());
}

TEST_CASE("device: on the GPU", "[device][gpu]") {
  if (!gpu_is_here()) return;
  spec::Config config = short_run();
  with_arm(config, /*dropout=*/0);  // its masks are drawn on the device: others than the CPU's
  const fs::path cpu = make_run("device-cpu", config);
  config.train.device = "cuda";
  const fs::path gpu = make_run("device-gpu", config), again = make_run("device-gpu-again", config);
  REQUIRE(train::train(cpu) == exit_finished);
  REQUIRE(train::train(gpu) == exit_finished);
  REQUIRE(train::train(again) == exit_finished);
  same_run(cpu, gpu);
  CHECK(metrics_of(gpu) == metrics_of(again));
  CHECK(started(gpu).at("quant_path") == "cuda");
}

TEST_CASE("device: on the GPU a run goes on from a checkpoint with the same bits", "[device][gpu]") {
  if (!gpu_is_here()) return;
  spec::Config config = short_run();
  config.train.device = "cuda";
  SECTION("not quantized, dropout, AQN") {
    config.lora.dropout = 0.1;
    config.noise.kind = "aqn";
    config.noise.stages = 2;
  }
  SECTION("W4A4") {
    config.quant.format = "nvfp4";
    config.quant.hook = "pre";
    config.quant.ste = true;
  }
  goes_on(config, {});
}

}  // namespace assay::test
