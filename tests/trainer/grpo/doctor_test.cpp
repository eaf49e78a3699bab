// The preflight on a tiny model: what it measures, and that it leaves everything as it was.
#include "trainer/grpo/doctor.h"

#include <algorithm>

#include "quant/torch/fake_quantize.h"
#include "tests/trainer/grpo/tiny_run.h"

using namespace assay;
using namespace assay::test;

namespace {

spec::Config quantized(const std::string& hook, bool ste) {
  spec::Config config = tiny_config();
  config.quant.format = "nvfp4";
  config.quant.mode = "te";
  config.quant.hook = hook;
  config.quant.ste = ste;
  config.quant.exclude = {"^.*\\.base_layer$"};
  return config;
}

const train::Finding* find(const std::vector<train::Finding>& findings, const std::string& id) {
  const auto found = std::find_if(findings.begin(), findings.end(), [&](const auto& f) { return f.id == id; });
  return found == findings.end() ? nullptr : &*found;
}

std::int64_t covered(const train::Measurements& seen) {
  return std::count_if(seen.gradients.begin(), seen.gradients.end(), [](const auto& g) { return g.non_zero; });
}

struct Examined {
  train::Measurements seen;
  std::vector<train::Finding> findings;
};

Examined examine(const std::string& name, const spec::Config& config,
                 train::ActivationQuantizer quantizer = train::default_activation_quantizer()) {
  auto session = train::open_session(train::read_inputs(make_run(name, config)), std::move(quantizer));
  Examined result{train::measure(session), {}};
  result.findings = train::judge(result.seen);
  return result;
}

}  // namespace

TEST_CASE("with the estimator every tensor gets a gradient and nothing is an error") {
  const auto [seen, findings] = examine("doctor-clean", quantized("pre", true));
  CHECK(seen.gradients.size() == 28);
  CHECK(covered(seen) == 28);
  CHECK(find(findings, "coverage"));
  CHECK(std::none_of(findings.begin(), findings.end(), [](const auto& f) { return f.severity == train::Severity::error; }));
  CHECK(seen.report.modules.size() == 14);
  REQUIRE(seen.errors.size() == 14);
  for (const auto& error : seen.errors) {
    CHECK(error.activation);
    CHECK(error.activation_sqnr_db > 10);
    CHECK(error.activation_sqnr_db < 40);
    CHECK(error.weight_sqnr_db > 10);
  }
}

TEST_CASE("without it a pre-hook leaves o_proj and down_proj, a post-hook nothing") {
  const auto pre = examine("doctor-pre", quantized("pre", false));
  CHECK(covered(pre.seen) == 8);
  for (const auto& gradient : pre.seen.gradients) {
    const bool residual = gradient.projection.ends_with("o_proj") || gradient.projection.ends_with("down_proj");
    CHECK(gradient.non_zero == residual);
  }
  REQUIRE(find(pre.findings, "ste-missing-pre"));

  const auto post = examine("doctor-post", quantized("post", false));
  CHECK(covered(post.seen) == 0);
  REQUIRE(find(post.findings, "ste-missing-post"));

  auto part = quantized("post", false);
  part.quant.exclude.push_back("^model\\.layers\\.0\\..*$");
  const auto some = examine("doctor-part", part);
  CHECK(covered(some.seen) == 14);
  CHECK_THAT(find(some.findings, "ste-missing-post")->what, Catch::Contains("14 keep"));
}

TEST_CASE("an estimator that is configured and broken is caught") {
  const train::ActivationQuantizer broken = [](const at::Tensor& x, const quant::Spec& spec, bool) {
    return quant::fake_quantize(x, spec, 1);  // forgets the estimator, as the published series did
  };
  const auto [seen, findings] = examine("doctor-broken", quantized("pre", true), broken);
  CHECK(covered(seen) == 8);
  REQUIRE(find(findings, "ste-broken"));
  CHECK(find(findings, "ste-broken")->severity == train::Severity::error);
}

TEST_CASE("wrapper and base layer both quantized is seen") {
  auto config = quantized("pre", true);
  config.quant.exclude.clear();
  const auto [seen, findings] = examine("doctor-twice", config);
  CHECK(seen.report.modules.size() == 28);
  CHECK(seen.report.twice.size() == 14);
  REQUIRE(find(findings, "quantized-twice"));
}

TEST_CASE("sampling unquantized and training quantized is seen, with the gap it makes") {
  auto config = quantized("pre", true);
  config.quant.apply_during = "training";
  const auto differs = examine("doctor-differs", config);
  REQUIRE(find(differs.findings, "rollout-differs"));
  config.quant.apply_during = "both";
  config.quant.tensor_scale = "row";
  const auto same = examine("doctor-same", config);
  REQUIRE(find(same.findings, "rollout-same"));
  // On a device sums depend on the batch's shape, and a value on the border between two codes goes the other way.
  if (on_cpu()) CHECK(same.seen.gap_max < 1e-4);
  CHECK(differs.seen.gap_mean > 10 * same.seen.gap_mean);
}

TEST_CASE("gradients in FP4 are held against fp32's, and stochastic rounding leaves the first ratio at 1") {
  auto config = quantized("pre", true);
  config.quant.backward = "fp4";
  const auto rounded = examine("doctor-fp4", config);
  REQUIRE(find(rounded.findings, "gradient-rounded"));
  CHECK(rounded.seen.gradient_error > 0.03);
  CHECK(rounded.seen.gradient_error < 0.5);
  CHECK(rounded.seen.gradient_cosine > 0.9);
  CHECK(rounded.seen.gradient_cosine < 0.9999);
  CHECK(covered(rounded.seen) == 28);
  CHECK(examine("doctor-fp32", quantized("pre", true)).seen.gradient_error == -1);

  config = quantized("pre", true);
  config.quant.tensor_scale = "row";
  config.quant.rounding = "stochastic";
  const auto drawn = examine("doctor-stochastic", config);
  CHECK(drawn.seen.ratio_deviation == 0);
  CHECK(drawn.seen.gap_batch > 1e-3);  // the sampler drew other numbers
  CHECK(drawn.seen.gap_phase == 0);
}

TEST_CASE("the adapters are left bit for bit as they were, the phase too") {
  auto session = train::open_session(train::read_inputs(make_run("doctor-restores", quantized("pre", true))));
  std::vector<at::Tensor> before;
  for (const auto& tensor : session.decoder->adapter()) before.push_back(tensor.tensor.detach().clone());
  session.decoder->set_phase(train::Phase::off);
  train::measure(session);
  const auto after = session.decoder->adapter();
  for (std::size_t i = 0; i < after.size(); ++i) {
    CHECK(at::equal(after[i].tensor, before[i]));
    CHECK_FALSE(after[i].tensor.grad().defined());
  }
  CHECK(session.decoder->phase() == train::Phase::off);
}

TEST_CASE("no spread of rewards is a finding of its own") {
  const auto run = make_run("doctor-no-reward", quantized("pre", true));
  write_text(run / "train.jsonl", json{{"question", "what"}, {"answer", "#### 77777"}}.dump() + "\n");
  auto session = train::open_session(train::read_inputs(run));
  const auto seen = train::measure(session);
  CHECK(seen.groups_with_spread == 0);
  CHECK(covered(seen) == 28);  // coverage is measured with advantages of its own
  CHECK(find(train::judge(seen), "no-reward-spread"));
}

TEST_CASE("each gap has a reason, and it is measured") {
  const auto reasons = [](const train::Measurements& seen, train::Gap gap) {
    return std::count_if(seen.gradients.begin(), seen.gradients.end(), [&](const auto& g) { return !g.non_zero && g.gap == gap; });
  };
  CHECK(reasons(examine("doctor-gap-pre", quantized("pre", false)).seen, train::Gap::estimator) == 20);
  // A quantizer that gives zeros, estimator and all: nothing behind it has anything to multiply.
  auto session = train::open_session(train::read_inputs(make_run("doctor-gap-zero", quantized("pre", true))),
                                     [](const at::Tensor& x, const quant::Spec&, bool) { return at::zeros_like(x); });
  const auto seen = train::measure(session);
  CHECK(reasons(seen, train::Gap::none) == 0);
  CHECK(covered(seen) < 28);
}

TEST_CASE("layers, first updates and lengths are measured") {
  const auto [seen, findings] = examine("doctor-depth", quantized("pre", true));
  REQUIRE(seen.layers.size() == 2);
  for (const auto& layer : seen.layers) {
    CHECK(layer.residual_sqnr_db > 5);
    CHECK(layer.residual_sqnr_db < 60);
  }
  REQUIRE(seen.updates.size() == 2);
  CHECK(seen.updates[0].covered == 14);  // every B; A follows once B has moved
  CHECK(seen.updates[1].covered == 28);
  for (const auto& update : seen.updates) {
    CHECK(update.update_norm > 0);
    CHECK(update.logprob_change > 0);
  }
  CHECK(seen.ratio_deviation == 0);
  CHECK(seen.responses == 64);
  CHECK(seen.left_out.empty());
  CHECK(seen.never_ran.empty());

  auto config = quantized("pre", true);
  config.quant.exclude.push_back("^model\\.layers\\.0\\..*$");
  config.optimizer.lr = 1e-9;
  const auto small = examine("doctor-small", config);
  CHECK(small.seen.left_out.size() == 7);
  CHECK(find(small.findings, "lr-small"));
  config.optimizer.lr = 3;
  CHECK(find(examine("doctor-large", config).findings, "lr-large"));
  config.rollout.max_response_length = 1;
  CHECK(find(examine("doctor-cut", config).findings, "responses-cut"));

  config = quantized("pre", true);
  config.quant.exclude.clear();
  CHECK(examine("doctor-again", config).seen.rounded_again > 0);
}

TEST_CASE("random weights of a shape: everything but the rewards, without a model folder's weights") {
  const auto run = make_run("doctor-random", quantized("pre", true));
  fs::remove(run / "model/model.safetensors");
  fs::remove(run / "model/tokenizer.json");
  fs::remove(run / "train.jsonl");
  for (const char* when : {"both", "training"}) {
    auto inputs = train::read_inputs(run);
    inputs.config.quant.apply_during = when;
    inputs.config.train.device = "cuda";
    auto session = train::open_random_session(inputs, run / "model");
    CHECK(session.decoder->has_unquantized_weights() == (std::string(when) == "training"));
    const auto seen = train::measure_random(session);
    CHECK(seen.report.modules.size() == 14);
    CHECK(covered(seen) == 28);
    CHECK(seen.tokens == 64);
    CHECK(seen.groups == 0);
    CHECK(seen.layers.size() == (std::string(when) == "training" ? 2 : 0));
    REQUIRE(seen.updates.size() == 2);
    CHECK(seen.made_up_rewards);
    const auto findings = train::judge(seen);
    CHECK(std::none_of(findings.begin(), findings.end(), [](const auto& f) { return f.severity == train::Severity::error; }));
    CHECK_FALSE(find(findings, "no-reward-spread"));
  }
}
