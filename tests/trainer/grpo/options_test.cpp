// What the options of a step do, and what they must not do: batching never changes a result beyond float summation.
#include <algorithm>
#include <cmath>

#include "tests/trainer/grpo/tiny_run.h"
#include "trainer/grpo/evaluate.h"
#include "trainer/grpo/model_io.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/train.h"
#include "trainer/grpo/update.h"

using namespace assay;
using namespace assay::test;

namespace {

struct Step {
  train::Batch batch;
  train::UpdateResult update;
  std::vector<at::Tensor> moved;  // what the update did to each trainable tensor
};

// The first step of a config on a fresh session, from the rollouts of `given` where there are some.
Step first_step(const std::string& name, const spec::Config& config, const train::Batch* given = nullptr) {
  auto session = train::open_session(train::read_inputs(make_run("options-" + name, config)));
  // B not zero, so that the adapter and its reference differ from the first step on.
  if (config.train.parameters == "lora")
    for (const auto& tensor : session.decoder->adapter()) {
      const at::NoGradGuard no_grad;
      if (tensor.name.find("lora_B") != std::string::npos)
        at::Tensor(tensor.tensor).copy_(0.05 * at::sin(at::arange(tensor.tensor.numel(), at::kFloat)).view_as(tensor.tensor));
    }
  train::Optimizer optimizer(session.decoder->trainable(), config.optimizer);
  train::DataOrder order(session.train.problems.size(), 1);
  Step step;
  step.batch = given ? *given : train::collect_batch(session, order, 1);
  const auto before = optimizer.state().parameters;
  step.update = train::update_policy(session, optimizer, step.batch, 1);
  const auto after = optimizer.state().parameters;
  for (std::size_t i = 0; i < after.size(); ++i) step.moved.push_back(after[i] - before[i]);
  return step;
}

// || a - b || / || b ||, over all tensors.
double distance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]).to(at::kDouble).square().sum().item<double>();
    size += b[i].to(at::kDouble).square().sum().item<double>();
  }
  return std::sqrt(difference / size);
}

// With this epsilon an AdamW step is the gradient times a constant, nearly: Adam's own division by its size would make
// the rounding error of a gradient that is almost zero as large as the step.
spec::Config smooth() {
  spec::Config config = tiny_config();
  config.optimizer.eps = 1;
  config.optimizer.lr = 10;
  config.optimizer.grad_clip = 0;
  config.grpo.mini_batch_size = 8;
  return config;
}

double number(const train::Metrics& metrics, const char* key) {
  INFO(key);
  REQUIRE(metrics.count(key) == 1);
  return metrics.at(key);
}

}  // namespace

// Tolerance: 1e-5 of the norm. Sums over rows are cut at other places, fp32 has 6e-8 to lose at each.
TEST_CASE("the size of a micro-batch changes nothing but float summation, for each aggregation and KL form") {
  double worst = 0;
  for (const auto* aggregation : {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"})
    for (const auto* kl : {"none", "k1", "k2", "k3"}) {
      INFO(aggregation << " " << kl);
      auto config = smooth();
      config.grpo.loss_agg = aggregation;
      if (kl != std::string("none")) {
        config.grpo.kl_coef = 0.1;
        config.grpo.kl_type = kl;
        config.grpo.entropy_coef = 0.01;
        config.grpo.rollout_is = "token";
        config.quant.format = "mxfp4";
        config.quant.apply_during = "training";
      }
      const auto whole = first_step("micro-0", config);
      for (const std::int64_t size : {1, 3}) {
        config.grpo.micro_batch_size = size;
        const auto parts = first_step("micro-n", config, &whole.batch);
        const double apart = distance(parts.moved, whole.moved);
        worst = std::max(worst, apart);
        CHECK(apart < 1e-5);
        for (const auto* key : {"actor/pg_loss", "actor/grad_norm", "actor/entropy", "rollout_corr/kl"}) {
          if (!whole.update.metrics.count(key)) continue;
          CHECK(number(parts.update.metrics, key) == Approx(number(whole.update.metrics, key)).epsilon(1e-5).margin(1e-7));
        }
        if (config.grpo.kl_coef > 0)
          for (const auto* key : {"actor/loss", "actor/kl_loss"})
            CHECK(number(parts.update.metrics, key) == Approx(number(whole.update.metrics, key)).epsilon(1e-5).margin(1e-7));
      }
    }
  std::printf("micro-batches of 1 and 3 prompts against 8: largest distance of the update %.1e\n", worst);
}

TEST_CASE("the number of slots changes no token and no log-prob", "[cpu]") {
  for (const auto* format : {"none", "mxfp4", "nvfp4"}) {
    auto config = smooth();
    config.quant.format = format;
    config.quant.tensor_scale = format == std::string("nvfp4") ? "row" : "tensor";
    const auto all = first_step("slots-0", config);
    for (const std::int64_t slots : {8, 24}) {
      INFO(format << " " << slots);
      config.rollout.batch_size = slots;
      const auto some = first_step("slots-n", config);
      CHECK(some.batch.rollout.responses == all.batch.rollout.responses);
      CHECK(some.batch.rollout.logprobs == all.batch.rollout.logprobs);
      CHECK(some.batch.rewards == all.batch.rewards);
      CHECK(distance(some.moved, all.moved) == 0);
    }
  }
}

TEST_CASE("the KL penalty is against the model as it was: nothing before the first update, then something") {
  for (const auto* parameters : {"lora", "full"})
    for (const auto* type : {"k1", "k2", "k3"}) {
      INFO(parameters << " " << type);
      auto config = tiny_config();
      config.quant.format = "mxfp4";
      config.quant.exclude = {"^.*\\.base_layer$"};
      config.grpo.mini_batch_size = 8;
      config.grpo.kl_coef = 0.1;
      config.grpo.kl_type = type;
      config.train.parameters = parameters;
      config.optimizer.lr = parameters == std::string("lora") ? 1e-2 : 1e-3;
      config.train.steps = 2;
      const auto run = make_run("options-kl", config);
      REQUIRE(train::train(run) == train::exit_finished);
      const auto metrics = metrics_of(run);
      CHECK(metrics.at(1).at("actor/kl_loss") == 0.0);
      CHECK(metrics.at(1).at("actor/loss") == metrics.at(1).at("actor/pg_loss"));
      if (type != std::string("k1")) CHECK(metrics.at(2).at("actor/kl_loss").get<double>() > 0);
      CHECK(metrics.at(2).at("actor/loss").get<double>() ==
            Approx(metrics.at(2).at("actor/pg_loss").get<double>() + 0.1 * metrics.at(2).at("actor/kl_loss").get<double>()));
    }
}

TEST_CASE("importance weights: without a gap they change no bit, with one they do") {
  auto config = smooth();
  const auto plain = first_step("tis-off", config);
  config.grpo.rollout_is = "token";
  const auto weighted = first_step("tis-on", config);
  if (on_cpu()) {
    CHECK(number(weighted.update.metrics, "rollout_corr/rollout_is_eff_sample_size") == 1);
    CHECK(distance(weighted.moved, plain.moved) == 0);
  }

  config.quant.format = "nvfp4";
  config.quant.apply_during = "rollout";
  const auto apart = first_step("tis-apart", config);
  CHECK(number(apart.update.metrics, "rollout_corr/chi2_token") != 0);
  CHECK(number(apart.update.metrics, "rollout_corr/rollout_is_eff_sample_size") < 1);
  CHECK(number(apart.update.metrics, "rollout_corr/rollout_is_max") <= 2);
  config.grpo.rollout_is = "none";
  const auto uncorrected = first_step("tis-none", config);
  CHECK(distance(apart.moved, uncorrected.moved) > 1e-3);
}

TEST_CASE("an entropy bonus raises the entropy") {
  auto config = tiny_config();
  config.train.steps = 6;
  config.grpo.entropy_coef = 1;
  const auto with = make_run("options-entropy", config);
  REQUIRE(train::train(with) == train::exit_finished);
  config.grpo.entropy_coef = 0;
  const auto without = make_run("options-no-entropy", config);
  REQUIRE(train::train(without) == train::exit_finished);
  CHECK(metrics_of(with).at(1).at("actor/entropy").get<double>() > 0);
  CHECK(metrics_of(with).at(6).at("actor/entropy").get<double>() > metrics_of(without).at(6).at("actor/entropy").get<double>() + 0.05);
}

TEST_CASE("dropout is in updates only, and the same seed drops the same") {
  auto config = smooth();
  const auto plain = first_step("dropout-0", config);
  config.lora.dropout = 0.5;
  const auto once = first_step("dropout-1", config), again = first_step("dropout-2", config);
  CHECK(once.batch.rollout.logprobs == plain.batch.rollout.logprobs);  // sampling knows nothing of it
  CHECK(distance(once.moved, again.moved) == 0);
  CHECK(distance(once.moved, plain.moved) > 1e-2);
  CHECK(number(once.update.metrics, "actor/first_ratio_max_deviation") > 1e-4);  // old log-probs are those without
  CHECK(number(once.update.metrics, "training/rollout_probs_diff_max") <= (on_cpu() ? 0 : 1e-6));

  // Evaluations neither: with nothing learned they are the same.
  config.train.steps = 1;
  config.optimizer.lr = 1e-30;
  const auto run = make_run("options-dropout-eval", config);
  REQUIRE(train::train(run) == train::exit_finished);
  CHECK(read_text(run / "eval/step-000000.jsonl") == read_text(run / "eval/step-000001.jsonl"));
  CHECK(json::parse(read_text(run / "adapter/adapter_config.json"))["lora_dropout"] == 0.5);
}

// Each word through whole steps: what it moves, that the same seed repeats it, and that resuming or chunking does too.
TEST_CASE("rounding, rotation, tiles and FP4 gradients act in a run, and the same seed gives the same bits") {
  auto base = tiny_config();
  base.train.steps = 2;
  base.quant.format = "nvfp4";
  base.quant.tensor_scale = "row";
  base.quant.exclude = {"^.*\\.base_layer$"};
  const auto run = [&](const std::string& name, const std::function<void(spec::QuantConfig&)>& change, std::int64_t seed = 1) {
    auto config = base;
    config.train.seed = seed;
    change(config.quant);
    const auto folder = make_run("options-quant-" + name, config);
    REQUIRE(train::train(folder) == train::exit_finished);
    return metrics_of(folder);
  };
  const auto plain = run("plain", [](auto&) {});
  if (on_cpu()) CHECK(plain.at(1).at("training/rollout_probs_diff_max") == 0.0);
  const std::vector<std::pair<std::string, std::function<void(spec::QuantConfig&)>>> changes = {
      {"stochastic", [](auto& q) { q.rounding = "stochastic"; }},
      {"hadamard", [](auto& q) { q.hadamard = true; }},
      {"tiles", [](auto& q) { q.blocking = "2d"; }},
      {"backward", [](auto& q) { q.backward = "fp4"; }}};
  for (const auto& [name, change] : changes) {
    INFO(name);
    const auto once = run(name, change), again = run(name + "-2", change);
    CHECK(once == again);
    // Only stochastic rounding sets the sampler apart from the trainer.
    if (on_cpu() || name == "stochastic") CHECK((once.at(1).at("training/rollout_probs_diff_max") == 0.0) == (name != "stochastic"));
    if (name == "backward") CHECK(once.at(1).at("rollout/score/mean") == plain.at(1).at("rollout/score/mean"));
    CHECK(once.at(1).at("actor/entropy") != plain.at(1).at("actor/entropy"));  // of the second mini-batch, in any case
    CHECK(once.at(1).at("actor/grad_norm") != plain.at(1).at("actor/grad_norm"));
    CHECK(once.at(1).at("actor/grad_tensors") == plain.at(1).at("actor/grad_tensors"));
    CHECK(once.at(1).at("actor/first_ratio_max_deviation") == 0.0);
  }
}

TEST_CASE("an epoch is as many steps as the training problems fill") {
  auto config = tiny_config();
  config.train.steps = 1;
  config.train.epochs = 1;
  config.eval.test_freq = 100;
  const auto run = make_run("options-epoch", config);  // 40 problems, 8 a step
  REQUIRE(train::train(run) == train::exit_finished);
  CHECK(read_lines(run / "events.jsonl").front()["data"]["total_steps"] == 5);
  CHECK(metrics_of(run).rbegin()->first == 5);
  config.grpo.train_batch_size = 64;
  CHECK_THROWS_WITH(train::train(make_run("options-no-epoch", config)), Catch::Contains("train.epochs") && Catch::Contains("40 problems"));
}

TEST_CASE("the adapter's initial values") {
  auto config = tiny_config();
  config.lora.rank = 16;
  config.lora.init = "gaussian";
  const auto session = train::open_session(train::read_inputs(make_run("options-init", config)));
  double squares = 0, count = 0;
  for (const auto& tensor : session.decoder->adapter()) {
    const double sum = tensor.tensor.detach().to(at::kDouble).square().sum().item<double>();
    if (tensor.name.find("lora_B") != std::string::npos) {
      CHECK(sum == 0);
    } else {
      squares += sum;
      count += static_cast<double>(tensor.tensor.numel());
    }
  }
  CHECK(std::sqrt(squares / count) == Approx(1.0 / 16).epsilon(0.03));
}

TEST_CASE("full fine-tuning: every weight learns, also behind quantizers, and a whole model comes out") {
  for (const auto* format : {"none", "mxfp4"}) {
    INFO(format);
    auto config = tiny_config();
    config.train.parameters = "full";
    config.quant.format = format;
    config.optimizer.lr = 1e-3;
    const auto run = make_run("options-full", config);
    REQUIRE(train::train(run) == train::exit_finished);
    const auto metrics = metrics_of(run);
    const auto weights = train::Decoder::load(run / "model").base_weights();
    for (int step = 1; step <= 3; ++step) {
      CHECK(metrics.at(step).at("actor/adapter_tensors") == static_cast<double>(weights.size()));
      CHECK(metrics.at(step).at("actor/grad_tensors") == static_cast<double>(weights.size()));
      // Weights are quantized anew after each update, for the sampler and the trainer alike.
      if (on_cpu()) CHECK(metrics.at(step).at("training/rollout_probs_diff_max") == 0.0);
    }
    CHECK_FALSE(fs::exists(run / "adapter"));
    const auto trained = train::Decoder::load(run / "trained");
    double moved = 0;
    for (std::size_t i = 0; i < weights.size(); ++i)
      moved += (trained.base_weights()[i].tensor - weights[i].tensor).abs().max().item<double>() > 0;
    CHECK(moved == static_cast<double>(weights.size()));
    // The model that came out is the one that was evaluated last.
    auto inputs = train::read_inputs(run);
    inputs.derived.model_path = (run / "trained").string();
    auto session = train::open_session(inputs);
    const auto evaluation = train::evaluate(session);
    const auto last = read_lines(run / "eval/step-000003.jsonl");
    for (std::size_t i = 0; i < last.size(); ++i) CHECK(last[i]["completion"] == evaluation.problems[i].completion);
  }
}

TEST_CASE("full fine-tuning without the estimator: quantized weights get no gradient, the others do") {
  auto config = smooth();
  config.train.parameters = "full";
  config.quant.format = "mxfp4";
  config.quant.ste = false;
  const auto step = first_step("full-no-ste", config);
  // 2 layers of 7 projections: no weight. Embedding and last norm, biases of q, k, v and the norms' part in the residual.
  double moved = 0;
  for (const auto& tensor : step.moved) moved += tensor.abs().max().item<double>() > 0;
  CHECK(moved > 0);
  CHECK(moved < static_cast<double>(step.moved.size()) - 13);
}
