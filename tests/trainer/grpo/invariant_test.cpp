// rollout.batch_invariant: sampling and training give the same bits, and a row's tokens do not depend on its batch.
#include <cstdlib>

#include "tests/trainer/grpo/tiny_run.h"
#include "trainer/grpo/session.h"
#include "trainer/grpo/train.h"

using namespace assay;
using namespace assay::test;

namespace {

spec::Config invariant(const std::string& format) {
  spec::Config config = tiny_config();
  config.quant.format = format;
  config.quant.mode = spec::default_mode(format);
  config.quant.tensor_scale = format == "nvfp4" ? "row" : "tensor";
  config.rollout.batch_invariant = true;
  return config;
}

}  // namespace

TEST_CASE("over whole steps not a bit lies between the sampler's log-probs and the trainer's") {
  for (const auto* format : {"none", "mxfp4", "nvfp4"}) {
    INFO(format);
    auto config = invariant(format);
    config.rollout.batch_size = 24;  // the sampler's batch is another than the trainer's
    config.grpo.micro_batch_size = 3;
    const auto run = make_run(std::string("invariant-") + format, config);
    REQUIRE(train::train(run) == train::exit_finished);
    for (const auto& [step, metrics] : metrics_of(run)) {
      if (step == 0) continue;
      INFO(step);
      CHECK(metrics.at("actor/updates") == 2);
      for (const auto* zero : {"training/rollout_probs_diff_max", "rollout_corr/kl", "rollout_corr/k3_kl",
                               "rollout_corr/ratio_outside_clip", "actor/first_ratio_max_deviation"})
        CHECK(metrics.at(zero) == 0.0);
      CHECK(metrics.at("actor/first_ratio_mean") == 1.0);
    }
    for (const auto& event : read_lines(run / "events.jsonl")) CHECK(event["data"].value("id", "") != "not-batch-invariant");
  }
}

TEST_CASE("in bf16 the sampler's log-probs are the trainer's too, and other ones than in fp32") {
  auto config = invariant("mxfp4");
  const auto single = make_run("invariant-fp32", config);
  config.model.dtype = "bf16";
  const auto rounded = make_run("invariant-bf16", config);
  for (const auto& run : {single, rounded}) REQUIRE(train::train(run) == train::exit_finished);
  for (const auto& [step, metrics] : metrics_of(rounded)) {
    if (step == 0) continue;
    CHECK(metrics.at("training/rollout_probs_diff_max") == 0.0);
    CHECK(metrics.at("actor/grad_tensors") > 0);
  }
  CHECK(metrics_of(rounded).at(1).at("actor/grad_norm") != metrics_of(single).at(1).at("actor/grad_norm"));
}

TEST_CASE("with one scale a tensor there is a gap, which the same metrics show") {
  auto config = invariant("nvfp4");
  config.quant.tensor_scale = "tensor";  // the series reader would refuse it; a config.json by hand does not
  const auto run = make_run("invariant-not", config);
  REQUIRE(train::train(run) == train::exit_finished);
  CHECK(metrics_of(run).at(2).at("training/rollout_probs_diff_max") > 0.0);
  bool found = false;
  for (const auto& event : read_lines(run / "events.jsonl")) found |= event["data"].value("id", "") == "not-batch-invariant";
  CHECK(found);
}

// The same prompts' samples in batches of 1, 7 and 32 rows.
static void check_batches(const fs::path& run, std::int64_t prompts) {
  auto session = train::open_session(train::read_inputs(run));
  at::manual_seed(3);
  for (const auto& tensor : session.decoder->adapter()) {  // an adapter that does something
    const at::NoGradGuard no_grad;
    at::Tensor(tensor.tensor).normal_(0, 0.1);
  }
  auto options = session.sampling(11);
  options.samples_per_prompt = 1;
  session.decoder->set_phase(train::Phase::rollout);
  session.train.prompts.resize(static_cast<std::size_t>(prompts));
  std::vector<train::Rollout> rollouts;
  for (const std::int64_t size : {1, 7, 32}) {
    options.batch_size = size;
    rollouts.push_back(train::sample(*session.decoder, session.train.prompts, options));
  }
  CHECK(rollouts[0].responses == rollouts[1].responses);
  CHECK(rollouts[0].responses == rollouts[2].responses);
  CHECK(rollouts[0].logprobs == rollouts[1].logprobs);
  CHECK(rollouts[0].logprobs == rollouts[2].logprobs);
  std::int64_t tokens = 0;
  for (const auto& response : rollouts[0].responses) tokens += static_cast<std::int64_t>(response.size());
  CHECK(tokens > 100);
}

TEST_CASE("batches of 1, 7 and 32 rows give the same tokens and log-probs") {
  for (const auto* format : {"none", "mxfp4", "nvfp4"}) {
    INFO(format);
    check_batches(make_run(std::string("invariant-batch-") + format, invariant(format)), 40);
  }
}

// Minutes: run by `make parity` on the model of `make smollm2`, whose folder $ASSAY_SMOLLM2 names.
TEST_CASE("SmolLM2: a whole step without a differing bit, and batches of 1, 7 and 32", "[.smollm2]") {
  const char* folder = std::getenv("ASSAY_SMOLLM2");
  REQUIRE(folder != nullptr);
  for (const auto* format : {"none", "mxfp4", "nvfp4"}) {
    INFO(format);
    auto config = invariant(format);
    config.model.path = folder;
    config.train.threads = 2;
    config.train.steps = 1;
    config.rollout.max_response_length = 16;
    config.rollout.samples_per_prompt = 4;
    config.grpo.train_batch_size = 4;
    config.grpo.mini_batch_size = 2;
    config.grpo.micro_batch_size = 1;
    const auto run = make_run(std::string("invariant-smollm2-") + format, config);
    REQUIRE(train::train(run) == train::exit_finished);
    const auto metrics = metrics_of(run).at(1);
    CHECK(metrics.at("training/rollout_probs_diff_max") == 0.0);
    CHECK(metrics.at("actor/first_ratio_max_deviation") == 0.0);
    CHECK(metrics.at("rollout_corr/k3_kl") == 0.0);
    check_batches(run, 32);
  }
}
