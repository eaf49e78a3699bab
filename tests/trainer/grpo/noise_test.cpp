// AQN and RIN: the schedule to the number, strengths by layer, and where noise must never be.
#include "trainer/grpo/noise.h"

#include <cmath>

#include "tests/trainer/grpo/tiny_run.h"
#include "trainer/grpo/evaluate.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/train.h"
#include "trainer/grpo/update.h"

using namespace assay;
using namespace assay::test;
using train::noise_sigma;
using train::Phase;

namespace {

spec::NoiseConfig aqn(double start = 5e-2, double end = 5e-4) {
  spec::NoiseConfig noise;
  noise.kind = "aqn";
  noise.sigma_start = start;
  noise.sigma_end = end;
  noise.apply_during = "both";
  return noise;
}

spec::Config noisy_config() {
  spec::Config config = tiny_config();
  config.quant.format = "mxfp4";
  config.noise = aqn(0.3, 0.1);
  config.noise.stages = 3;
  return config;
}

std::vector<at::Tensor> copies(const std::vector<train::NamedTensor>& tensors) {
  std::vector<at::Tensor> all;
  for (const auto& tensor : tensors) all.push_back(tensor.tensor.detach().clone());
  return all;
}

bool same(const std::vector<train::NamedTensor>& now, const std::vector<at::Tensor>& before) {
  for (std::size_t i = 0; i < now.size(); ++i)
    if (!now[i].tensor.detach().equal(before[i])) return false;
  return now.size() == before.size();
}

at::Tensor last_states(train::Decoder& decoder, Phase phase) {
  const at::NoGradGuard no_grad;
  static const std::vector<std::vector<std::int32_t>> prompts{{3, 4, 5, 9}, {7, 8}};
  decoder.set_phase(phase);
  return decoder.prefill(train::rows_of(prompts)).last;
}

}  // namespace

TEST_CASE("the schedule, both forms, exactly") {
  auto noise = aqn();
  for (const std::int64_t steps : {20, 30, 200, 7}) {
    for (std::int64_t step = 1; step <= steps; ++step) {
      const auto stage = (step - 1) * 10 / steps;
      noise.schedule = "stages";
      CHECK(noise_sigma(noise, step, steps) ==
            (stage == 0 ? 0.0 : 5e-2 * std::pow(5e-4 / 5e-2, static_cast<double>(stage - 1) / 8.0)));
      noise.schedule = "paper";
      CHECK(noise_sigma(noise, step, steps) == 5e-2 * std::pow(5e-4 / 5e-2, static_cast<double>(stage) / 9.0));
    }
  }
  // By hand: 20 steps in 10 stages of two.
  noise.schedule = "stages";
  const double by_hand[] = {0, 0, 5e-2, 5e-2};
  for (int i = 0; i < 4; ++i) CHECK(noise_sigma(noise, i + 1, 20) == by_hand[i]);
  CHECK(noise_sigma(noise, 11, 20) == Approx(5e-3));  // the middle of the way, in logarithms
  CHECK(noise_sigma(noise, 20, 20) == Approx(5e-4));
  noise.schedule = "paper";
  CHECK(noise_sigma(noise, 1, 20) == 5e-2);
  CHECK(noise_sigma(noise, 20, 20) == Approx(5e-4));
  noise.stages = 2;
  noise.schedule = "stages";
  CHECK(noise_sigma(noise, 1, 20) == 0);
  CHECK(noise_sigma(noise, 20, 20) == 5e-2);
}

TEST_CASE("strengths by layer") {
  spec::NoiseConfig noise;
  noise.kind = "rin";
  const std::vector<double> errors{0.0625, 0.1875, 0.125, 0};  // exact, so that one is the mean; the last layer is not quantized
  const auto of = [&](const char* rin) {
    noise.rin = rin;
    return train::rin_multipliers(noise, errors);
  };
  CHECK(of("targeted") == std::vector<double>{0, 1, 1, 0});
  noise.target_error = 0.15;
  CHECK(of("targeted") == std::vector<double>{0, 1, 0, 0});
  const auto variable = of("variable"), inverse = of("inverse"), ceiling = of("ceiling");
  for (int i = 0; i < 3; ++i) {
    CHECK(variable[i] == Approx(errors[i] / 0.125));
    CHECK(inverse[i] == Approx(0.125 / errors[i]));
    CHECK(ceiling[i] == Approx(0.0625 / errors[i]));
  }
  CHECK(variable[3] == 0);
  CHECK(*std::max_element(ceiling.begin(), ceiling.end()) == 1);
  noise.zones = {"0-1: 1.5", "3-: 0.5"};
  CHECK(of("zones") == std::vector<double>{1.5, 1.5, 0, 0.5});
  for (const auto& [zones, word] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"0-4: 1"}, "not there"}, {{"0-2: 1", "2: 1"}, "two zones"}, {{"2-1: 1"}, "is no zone"}, {{"0: -1"}, "is no zone"},
           {{"0"}, "is no zone"}, {{"-1: 1"}, "is no zone"}, {{"0: 1x"}, "is no zone"}, {{"4-: 1"}, "not there"}}) {
    noise.zones = zones;
    CHECK_THROWS_WITH(of("zones"), Catch::Contains(word));
  }
}

TEST_CASE("a step's noise is a function of seed and step, of the right size, and no norm's depends on another's") {
  auto config = aqn(0.05, 0.05);
  config.schedule = "paper";
  config.targets = {"input_layernorm", "post_attention_layernorm", "norm"};
  const auto shape = tiny_shape();
  const train::NormNoise noise(config, 1, {});
  const auto all = noise.draw(shape, 4, 20), again = noise.draw(shape, 4, 20);
  REQUIRE(all.size() == 5);
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i].tensor.equal(again[i].tensor));
  CHECK_FALSE(all[0].tensor.equal(noise.draw(shape, 5, 20)[0].tensor));
  CHECK_FALSE(all[0].tensor.equal(train::NormNoise(config, 2, {}).draw(shape, 4, 20)[0].tensor));
  CHECK_FALSE(all[0].tensor.equal(all[1].tensor));

  config.targets = {"post_attention_layernorm"};
  const auto some = train::NormNoise(config, 1, {0.0, 2.0}).draw(shape, 4, 20);
  REQUIRE(some.size() == 1);
  CHECK(some[0].name == "model.layers.1.post_attention_layernorm.weight");
  CHECK(at::allclose(some[0].tensor, 2 * all[3].tensor));

  double sum = 0, squares = 0, count = 0;
  for (std::int64_t step = 1; step <= 200; ++step)
    for (const auto& tensor : noise.draw(shape, step, 200)) {
      sum += tensor.tensor.to(at::kDouble).sum().item<double>();
      squares += tensor.tensor.to(at::kDouble).square().sum().item<double>();
      count += static_cast<double>(tensor.tensor.numel());
    }
  CHECK(std::abs(sum / count) < 5 * 0.05 / std::sqrt(count));
  CHECK(std::sqrt(squares / count) == Approx(0.05).epsilon(0.02));
}

TEST_CASE("noise acts in the phases it is for, never in an evaluation, and leaves the weights as they are") {
  for (const auto* during : {"rollout", "training", "both"}) {
    INFO(during);
    auto config = noisy_config();
    config.noise.apply_during = during;
    auto session = train::open_session(train::read_inputs(make_run(std::string("noise-phases-") + during, config)));
    auto& decoder = *session.decoder;
    const auto weights = copies(decoder.base_weights());
    const auto clean = last_states(decoder, Phase::evaluation), plain = last_states(decoder, Phase::off);
    REQUIRE(last_states(decoder, Phase::rollout).equal(clean));
    REQUIRE(session.noise);
    session.noise->begin_step(decoder, 2, 3);
    CHECK(last_states(decoder, Phase::rollout).equal(clean) == (std::string(during) == "training"));
    CHECK(last_states(decoder, Phase::training).equal(clean) == (std::string(during) == "rollout"));
    CHECK(last_states(decoder, Phase::evaluation).equal(clean));
    CHECK(last_states(decoder, Phase::off).equal(plain));
    const auto once = last_states(decoder, Phase::rollout);
    for (const std::int64_t step : {3, 2, 2}) session.noise->begin_step(decoder, step, 3);
    CHECK(last_states(decoder, Phase::rollout).equal(once));  // not added up
    session.noise->begin_step(decoder, 1, 3);                 // the first stage has none
    CHECK(last_states(decoder, Phase::rollout).equal(clean));
    CHECK(last_states(decoder, Phase::training).equal(clean));
    CHECK(same(decoder.base_weights(), weights));
  }
}

TEST_CASE("after whole noisy steps the weights are bit for bit what they were, and so are evaluations") {
  auto config = noisy_config();
  config.optimizer.lr = 1e-30;  // nothing moves but by mistake
  const auto run = make_run("noise-run", config);
  auto session = train::open_session(train::read_inputs(run));
  const auto weights = copies(session.decoder->base_weights());
  const auto before = train::evaluate(session);
  train::Optimizer optimizer(session.decoder->trainable(), config.optimizer);
  train::DataOrder order(session.train.problems.size(), 1);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const auto batch = train::collect_batch(session, order, step);
    CHECK(batch.noise_sigma == session.noise->sigma(step, 3));
    const auto update = train::update_policy(session, optimizer, batch, step);
    // Rollout and training of a step have the same noise: with MXFP4 their log-probs are the same bits.
    CHECK(update.metrics.at("training/rollout_probs_diff_max") == 0);
    CHECK(same(session.decoder->base_weights(), weights));
    const auto after = train::evaluate(session);
    for (std::size_t i = 0; i < after.problems.size(); ++i) CHECK(after.problems[i].completion == before.problems[i].completion);
  }

  REQUIRE(train::train(run) == train::exit_finished);
  const auto metrics = metrics_of(run);
  CHECK(metrics.at(1).at("noise/sigma") == 0.0);
  CHECK(metrics.at(2).at("noise/sigma") == 0.3);
  CHECK(read_text(run / "eval/step-000000.jsonl") == read_text(run / "eval/step-000003.jsonl"));
  CHECK(json::parse(read_text(run / "noise-report.json"))["multipliers"].empty());
}

TEST_CASE("RIN scans at the run's start and says what it found") {
  auto config = noisy_config();
  config.noise.kind = "rin";
  config.noise.rin = "variable";
  const auto run = make_run("noise-rin", config);
  REQUIRE(train::train(run) == train::exit_finished);
  const auto report = json::parse(read_text(run / "noise-report.json"));
  REQUIRE(report["layers"].size() == 2);
  REQUIRE(report["multipliers"].size() == 2);
  double mean = 0;
  for (const auto& layer : report["layers"]) mean += layer["relative_error"].get<double>() / 2;
  for (int i = 0; i < 2; ++i) {
    const auto& layer = report["layers"][i];
    CHECK(report["multipliers"][i].get<double>() == Approx(layer["relative_error"].get<double>() / mean));
    CHECK(layer["sqnr_db"].get<double>() > 10);
    CHECK(layer["sqnr_db"].get<double>() < 30);
    CHECK(layer["relative_error"].get<double>() > 0.05);
    CHECK(layer["modules"].size() == 14);  // wrapper and base layer
  }
  // The same config scanned again, whatever the adapter has become: the same strengths.
  auto session = train::open_session(train::read_inputs(run));
  const auto first = session.noise->multipliers();
  for (const auto& tensor : session.decoder->adapter()) {
    const at::NoGradGuard no_grad;
    at::Tensor(tensor.tensor).fill_(0.1);
  }
  std::vector<double> errors;
  for (const auto& layer : train::scan(*session.decoder, {session.train.prompts.begin(), session.train.prompts.begin() + 16}))
    errors.push_back(layer.error.relative_error);
  CHECK(train::rin_multipliers(config.noise, errors) == first);
}

TEST_CASE("the scan's figures, against ones computed by hand") {
  auto config = tiny_config();
  config.quant.format = "mxfp4";
  config.quant.exclude = {"^.*\\.base_layer$"};
  auto session = train::open_session(train::read_inputs(make_run("scan-figures", config)));
  double x2 = 0, e2 = 0, abs = 0, abs_e = 0, dead = 0, clipped = 0, n = 0;
  session.decoder->set_observer([&](const std::string& module, const at::Tensor& x, const at::Tensor& xq) {
    if (module != "model.layers.1.mlp.down_proj") return;
    const auto exact = x.to(at::kDouble), rounded = xq.to(at::kDouble), blocks = exact.abs();
    x2 += exact.square().sum().item<double>();
    e2 += (exact - rounded).square().sum().item<double>();
    abs += blocks.sum().item<double>();
    abs_e += (exact - rounded).abs().sum().item<double>();
    dead += ((exact != 0) & (rounded == 0)).sum().item<double>();
    n += static_cast<double>(x.numel());
    // MXFP4 floor: the scale is 2^(floor(log2 max) - 2), so the largest that a block of 32 can hold is 6 times that.
    for (std::int64_t at = 0; at < x.size(1); at += 32) {
      const auto block = blocks.slice(1, at, std::min<std::int64_t>(at + 32, x.size(1)));
      const auto largest = block.amax(1, true).clamp_min(1e-30);
      clipped += (block > 6 * at::pow(2.0, at::floor(at::log2(largest)) - 2)).sum().item<double>();
    }
  });
  session.decoder->set_phase(Phase::evaluation);
  const std::vector<std::vector<std::int32_t>> prompts(session.train.prompts.begin(), session.train.prompts.begin() + 10);
  {
    const at::NoGradGuard no_grad;
    session.decoder->prefill(train::rows_of(prompts));
  }
  const auto layers = train::scan(*session.decoder, prompts);
  CHECK(session.decoder->phase() == Phase::evaluation);
  REQUIRE(layers.size() == 2);
  const auto& [name, error] = layers[1].modules.back();
  CHECK(name == "model.layers.1.mlp.down_proj");
  CHECK(error.elements == n);
  CHECK(error.sqnr_db == Approx(10 * std::log10(x2 / e2)));
  CHECK(error.relative_error == Approx(abs_e / abs));
  CHECK(error.dead_share == Approx(dead / n));
  CHECK(error.saturated_share == Approx(clipped / n));
  CHECK(clipped > 0);
  // q, k and v share one input, gate and up another: four distinct inputs make the layer's figures.
  std::int64_t distinct = 0;
  for (const std::size_t i : {0, 3, 4, 6}) distinct += layers[1].modules[i].second.elements;
  CHECK(layers[1].error.elements == distinct);
  CHECK(train::exceeded({19.9, 0.11, 0.06, 0.02, 1}).size() == 4);
  CHECK(train::exceeded({20.1, 0.09, 0.04, 0.005, 1}).empty());

  auto plain = train::open_session(train::read_inputs(make_run("scan-plain", tiny_config())));
  CHECK_THROWS_WITH(train::scan(*plain.decoder, prompts), Catch::Contains("nothing to scan"));
}
