// Whole runs on a tiny model: the library's train(), and what it leaves in the run folder.
#include "trainer/grpo/train.h"

#include <cmath>
#include <limits>
#include <tuple>

#include "tests/trainer/grpo/tiny_run.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/session.h"

using namespace assay;
using namespace assay::test;

namespace {

spec::Config quantized(const std::string& hook, bool ste) {
  spec::Config config = tiny_config();
  config.quant.format = "nvfp4";
  config.quant.mode = "te";
  config.quant.hook = hook;
  config.quant.ste = ste;
  return config;
}

double number(const std::map<std::string, json>& metrics, const std::string& key) {
  INFO(key);
  REQUIRE(metrics.count(key) == 1);
  return metrics.at(key).get<double>();
}

bool contains(const std::vector<std::string>& kinds, const std::string& kind) {
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

std::string refusal(const fs::path& run) {
  try {
    train::train(run);
  } catch (const train::BadInput& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a run leaves what docs/run-folder.md says") {
  const auto run = make_run("grpo-whole", quantized("pre", true));
  REQUIRE(train::train(run) == train::exit_finished);

  const auto kinds = event_kinds(run);
  CHECK(kinds.front() == "started");
  CHECK(kinds.back() == "finished");
  CHECK(read_lines(run / "events.jsonl").front()["data"]["total_steps"] == 3);

  const auto metrics = metrics_of(run);
  REQUIRE(metrics.size() == 4);
  for (const auto& [key, value] : metrics.at(0)) CHECK(key.starts_with("val-"));
  CHECK(metrics.at(1).count("val-core/openai/gsm8k/acc/mean@1") == 0);
  for (const int evaluated : {0, 2, 3}) CHECK(metrics.at(evaluated).count("val-core/openai/gsm8k/acc/mean@1") == 1);
  for (int step = 1; step <= 3; ++step) {
    const auto& m = metrics.at(step);
    CHECK(number(m, "actor/updates") == 2);
    CHECK(number(m, "actor/adapter_tensors") == 28);
    CHECK(number(m, "actor/first_ratio_mean") == Approx(1.0).margin(1e-6));
    CHECK(number(m, "actor/first_ratio_max_deviation") < 1e-6);
    CHECK(number(m, "actor/grad_norm") > 0);
    CHECK(number(m, "actor/update_norm") > 0);
    CHECK(number(m, "response_length/mean") <= 10);
    const double outcomes = number(m, "reward/outcome/correct") + number(m, "reward/outcome/wrong") +
                            number(m, "reward/outcome/unparsable") + number(m, "reward/outcome/scorer_error");
    CHECK(outcomes == 64);
    CHECK(number(m, "reward/outcome/correct") == Approx(64 * number(m, "critic/score/mean")));
  }
  CHECK(number(metrics.at(2), "actor/grad_tensors") == 28);

  const auto problems = read_lines(run / "eval/step-000003.jsonl");
  const auto whole = json::parse(read_text(run / "eval/step-000003.json"));
  REQUIRE(problems.size() == 20);
  int correct = 0;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    CHECK(problems[i]["index"] == i);
    correct += problems[i]["outcome"] == "correct";
  }
  CHECK(whole["correct"] == correct);
  CHECK(whole["problems"] == 20);
  CHECK(whole["accuracy"].get<double>() == Approx(correct / 20.0));
  CHECK(whole["quant"] == spec::quant_label(quantized("pre", true).quant));
  CHECK(whole["quant"] == whole["trained_quant"]);
  CHECK(whole["data_sha256"].get<std::string>().size() == 64);
  CHECK_FALSE(fs::exists(run / "eval/step-000001.json"));

  const auto report = json::parse(read_text(run / "quant-report.json"));
  CHECK(report["quantized_projections"] == 14);
  CHECK(report["modules"].size() == report["quantized_modules"]);
  CHECK(read_lines(run / "samples/step-000001.jsonl").size() == 16);

  // The adapter can be read back into a session of the same config.
  auto session = train::open_session(train::read_inputs(run));
  train::read_adapter(run / "adapter", session.decoder->adapter());
  double b = 0;
  for (const auto& tensor : session.decoder->adapter())
    if (tensor.name.find("lora_B") != std::string::npos) b += tensor.tensor.detach().abs().sum().item<double>();
  CHECK(b > 0);
  CHECK(json::parse(read_text(run / "adapter/adapter_config.json"))["r"] == 4);
}

TEST_CASE("the same config and seed give the same metrics, another seed gives others") {
  auto config = quantized("pre", true);
  const auto first = make_run("grpo-same-1", config), second = make_run("grpo-same-2", config);
  REQUIRE(train::train(first) == train::exit_finished);
  REQUIRE(train::train(second) == train::exit_finished);
  CHECK(metrics_of(first) == metrics_of(second));
  CHECK(read_text(first / "eval/step-000003.jsonl") == read_text(second / "eval/step-000003.jsonl"));
  CHECK(read_text(first / "adapter/adapter_model.safetensors") == read_text(second / "adapter/adapter_model.safetensors"));
  config.train.seed = 2;
  const auto third = make_run("grpo-same-3", config);
  REQUIRE(train::train(third) == train::exit_finished);
  CHECK(metrics_of(first) != metrics_of(third));
}

TEST_CASE("the size of a micro-batch changes nothing but float summation") {
  for (const auto* format : {"none", "mxfp4"}) {
    auto config = tiny_config();
    config.quant.format = format;
    config.train.steps = 1;
    const auto whole = make_run("grpo-micro-0", config);
    config.grpo.micro_batch_size = 1;
    const auto micro = make_run("grpo-micro-1", config);
    REQUIRE(train::train(whole) == train::exit_finished);
    REQUIRE(train::train(micro) == train::exit_finished);
    const auto a = metrics_of(whole).at(1), b = metrics_of(micro).at(1);
    for (const auto* key : {"actor/grad_norm", "actor/pg_loss", "actor/entropy", "actor/ppo_kl", "actor/pg_clipfrac", "actor/update_norm"}) {
      INFO(format << " " << key);
      CHECK(number(a, key) == Approx(number(b, key)).epsilon(1e-4).margin(1e-6));
    }
  }
}

TEST_CASE("a post-hook without estimator: no gradient at all, said once, and the run goes on") {
  const auto run = make_run("grpo-post", quantized("post", false));
  REQUIRE(train::train(run) == train::exit_finished);
  const auto kinds = event_kinds(run);
  CHECK(std::count(kinds.begin(), kinds.end(), "no_gradient") == 1);
  CHECK(contains(kinds, "finding"));
  CHECK(kinds.back() == "finished");
  const auto metrics = metrics_of(run);
  for (int step = 1; step <= 3; ++step) {
    CHECK(number(metrics.at(step), "actor/grad_norm") == 0);
    CHECK(number(metrics.at(step), "actor/grad_tensors") == 0);
    CHECK(number(metrics.at(step), "actor/no_gradient_updates") == 2);
    CHECK(number(metrics.at(step), "actor/update_norm") == 0);
  }
  CHECK(metrics.at(0).at("val-core/openai/gsm8k/acc/mean@1") == metrics.at(3).at("val-core/openai/gsm8k/acc/mean@1"));
}

TEST_CASE("a pre-hook without estimator trains o_proj and down_proj only, and a finding says so") {
  const auto run = make_run("grpo-pre", quantized("pre", false));
  REQUIRE(train::train(run) == train::exit_finished);
  CHECK(number(metrics_of(run).at(2), "actor/grad_tensors") == 8);  // 2 layers, 2 projections, A and B
  bool found = false;
  for (const auto& event : read_lines(run / "events.jsonl"))
    if (event["kind"] == "finding" && event["data"]["id"] == "no-gradient") {
      found = true;
      CHECK(event["data"]["tensors"].size() == 20);
      for (const auto& name : event["data"]["tensors"]) {
        const auto tensor = name.get<std::string>();
        CHECK(tensor.find("o_proj") == std::string::npos);
        CHECK(tensor.find("down_proj") == std::string::npos);
      }
    }
  CHECK(found);
}

TEST_CASE("a loss or a gradient that is not finite stops before the optimizer step") {
  // The sampler, which takes no gradient, sees a sound model; the training forward or its backward pass does not.
  const train::ActivationQuantizer bad_loss = [](const at::Tensor& x, const quant::Spec&, bool) {
    return at::GradMode::is_enabled() ? x * std::numeric_limits<float>::infinity() : x;
  };
  const train::ActivationQuantizer bad_gradient = [](const at::Tensor& x, const quant::Spec&, bool) {
    return at::GradMode::is_enabled() ? x + (x * 0).sqrt() : x;  // the same value; the gradient is 0 * infinity
  };
  for (const auto& [name, quantizer, word] :
       {std::tuple{"loss", bad_loss, "loss"}, std::tuple{"gradient", bad_gradient, "gradient"}}) {
    INFO(name);
    const auto run = make_run(std::string("grpo-non-finite-") + name, quantized("pre", true));
    CHECK(train::train(run, {.quantizer = quantizer}) == train::exit_non_finite);
    const auto events = read_lines(run / "events.jsonl");
    CHECK(events.back()["kind"] == "non_finite");
    CHECK(events.back()["step"] == 1);
    CHECK_THAT(events.back()["message"].get<std::string>(), Catch::Contains(word));
    CHECK(metrics_of(run).count(1) == 0);
    CHECK_FALSE(fs::exists(run / "adapter"));
  }
}

TEST_CASE("weights that overflow end as non-finite, not as broken") {
  const auto run = make_run("grpo-overflow", tiny_config());
  write_tiny_model(run / "model", [](const std::string& name, at::Tensor tensor) {
    if (name == "model.norm.weight") tensor.fill_(3e38F);
  });
  CHECK(train::train(run) == train::exit_non_finite);
  CHECK(event_kinds(run).back() == "non_finite");
}

TEST_CASE("dynamic sampling keeps groups with a spread, and goes on when there are too few") {
  auto config = tiny_config();
  config.grpo.filter_groups = true;
  config.grpo.gen_batch_size = 8;
  config.grpo.train_batch_size = 4;
  config.grpo.max_num_gen_batches = 3;
  config.rollout.max_response_length = 20;
  const auto run = make_run("grpo-filter", config);
  REQUIRE(train::train(run) == train::exit_finished);
  for (const auto& [step, m] : metrics_of(run)) {
    if (step == 0) continue;
    CHECK(number(m, "rollout/generation_batches") <= 3);
    CHECK(number(m, "rollout/groups_trained") <= 4);
    CHECK(number(m, "rollout/groups_trained") <= number(m, "rollout/groups_with_spread"));
    CHECK(number(m, "rollout/groups_sampled") == 8 * number(m, "rollout/generation_batches"));
  }
  // Answers that no sample can reach: no group has a spread, every step is empty, and the run still ends well.
  const auto none = make_run("grpo-filter-none", config);
  write_text(none / "train.jsonl", json{{"question", "what"}, {"answer", "#### 77777"}}.dump() + "\n");
  REQUIRE(train::train(none) == train::exit_finished);
  const auto kinds = event_kinds(none);
  CHECK(std::count(kinds.begin(), kinds.end(), "groups_short") == 3);
  CHECK(number(metrics_of(none).at(1), "rollout/groups_trained") == 0);
  CHECK(number(metrics_of(none).at(1), "actor/updates") == 0);
}

TEST_CASE("what is measured under another quantization says so") {
  auto config = quantized("pre", true);
  config.eval.quant = "none";
  config.train.steps = 1;
  const auto run = make_run("grpo-eval-none", config);
  REQUIRE(train::train(run) == train::exit_finished);
  const auto whole = json::parse(read_text(run / "eval/step-000001.json"));
  CHECK(whole["quant"] == "none");
  CHECK(whole["trained_quant"] == spec::quant_label(config.quant));
}

TEST_CASE("bad input is refused in one sentence") {
  const auto used = make_run("grpo-used", tiny_config());
  REQUIRE(train::train(used) == train::exit_finished);
  CHECK_THAT(refusal(used), Catch::Contains("never used twice"));

  CHECK_THAT(refusal("/nonexistent/run"), Catch::Contains("no such run folder"));

  const auto folder = make_run("grpo-no-model", tiny_config());
  fs::remove_all(folder / "model");
  CHECK_THAT(refusal(folder), Catch::Contains("model"));

  const auto truncated = make_run("grpo-truncated", tiny_config());
  fs::resize_file(truncated / "model/model.safetensors", fs::file_size(truncated / "model/model.safetensors") - 100);
  CHECK_THAT(refusal(truncated), Catch::Contains("model.safetensors"));

  const auto nan = make_run("grpo-nan", tiny_config());
  write_tiny_model(nan / "model", [](const std::string& name, at::Tensor tensor) {
    if (name == "model.layers.1.mlp.up_proj.weight") tensor[0][0] = std::numeric_limits<float>::quiet_NaN();
  });
  CHECK_THAT(refusal(nan), Catch::Contains("model.layers.1.mlp.up_proj.weight"));

  const auto data = make_run("grpo-data-line", tiny_config());
  write_text(data / "test.jsonl", json{{"question", "what"}, {"answer", "72"}}.dump() + "\n");
  CHECK_THAT(refusal(data), Catch::Contains("test.jsonl:1: ") && Catch::Contains("####"));

  auto config = tiny_config();
  config.rollout.max_prompt_length = 3;
  CHECK_THAT(refusal(make_run("grpo-long", config)), Catch::Contains("train.jsonl:1: ") && Catch::Contains("max_prompt_length"));
}
