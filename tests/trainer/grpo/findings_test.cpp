// judge() on measurements made up here; what is measured is tested in doctor_test.cpp.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "trainer/grpo/doctor.h"
#include "trainer/grpo/finding_watch.h"

using namespace assay;
using namespace assay::train;

namespace {

const std::vector<std::string> projections = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                              "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

// A run of two layers, all quantized, everything in order.
Measurements clean() {
  Measurements m;
  m.config.quant.format = "nvfp4";
  m.config.quant.mode = "te";
  m.trained_quant = m.evaluated_quant = "nvfp4/te W4A4 pre row ste";
  for (int layer = 0; layer < 2; ++layer)
    for (const auto& projection : projections) {
      const std::string name = "model.layers." + std::to_string(layer) + "." + projection;
      m.report.modules.push_back({name, name, true, true, "pre", "row", 20.0});
      m.errors.push_back({name, 20.0, true, 19.0, 0.01});
      for (const auto* part : {".lora_A.weight", ".lora_B.weight"})
        m.gradients.push_back({"base_model.model." + name + part, name, true, true});
    }
  m.report.projections = 14;
  m.groups = 8;
  m.groups_with_spread = 5;
  m.mean_score = 0.2;
  m.tokens = 100;
  m.gap_k3 = 1e-4;
  return m;
}

void cut(Measurements& m, const std::vector<std::string>& kept) {
  for (auto& gradient : m.gradients)
    gradient.non_zero = std::any_of(kept.begin(), kept.end(), [&](const auto& k) { return gradient.projection.ends_with(k); });
}

const Finding* find(const std::vector<Finding>& findings, const std::string& id) {
  const auto found = std::find_if(findings.begin(), findings.end(), [&](const auto& f) { return f.id == id; });
  return found == findings.end() ? nullptr : &*found;
}

bool only_info(const std::vector<Finding>& findings) {
  return std::all_of(findings.begin(), findings.end(), [](const auto& f) { return f.severity == Severity::info; });
}

}  // namespace

TEST_CASE("a sound run has nothing but information") {
  const auto findings = judge(clean());
  CHECK(only_info(findings));
  CHECK(find(findings, "coverage"));
  CHECK(find(findings, "quantization-error"));
}

TEST_CASE("the missing estimator is named, before a layer and behind it") {
  auto m = clean();
  m.config.quant.ste = false;
  cut(m, {"o_proj", "down_proj"});
  auto findings = judge(m);
  const auto* pre = find(findings, "ste-missing-pre");
  REQUIRE(pre);
  CHECK(pre->severity == Severity::error);
  CHECK(findings.front().id == "ste-missing-pre");
  CHECK_THAT(pre->what, Catch::Contains("straight-through estimator") && Catch::Contains("o_proj and down_proj"));
  CHECK_THAT(pre->evidence, Catch::Contains("8 of 28") && Catch::Contains("q_proj 0 of 4"));
  CHECK(pre->change == "quant.ste = true");

  m.config.quant.hook = "post";
  cut(m, {});
  findings = judge(m);
  REQUIRE(find(findings, "ste-missing-post"));
  CHECK_THAT(find(findings, "ste-missing-post")->evidence, Catch::Contains("0 of 28"));
}

TEST_CASE("layers that were left out keep their gradients, and it says so") {
  auto m = clean();
  m.config.quant.ste = false;
  m.report.modules.erase(m.report.modules.begin(), m.report.modules.begin() + 7);
  for (auto& gradient : m.gradients) gradient.non_zero = gradient.projection.find("layers.0.") != std::string::npos;
  CHECK_THAT(find(judge(m), "ste-missing-pre")->what, Catch::Contains("14 tensors of layers left out") && Catch::Contains("14 keep"));
}

TEST_CASE("an estimator that is configured and does not act is another finding") {
  auto m = clean();
  cut(m, {"o_proj", "down_proj"});
  const auto findings = judge(m);
  REQUIRE(find(findings, "ste-broken"));
  CHECK(find(findings, "ste-broken")->severity == Severity::error);
  CHECK_FALSE(find(findings, "ste-missing-pre"));
}

TEST_CASE("a missing gradient with no quantizer in the way is not put on the estimator") {
  auto m = clean();
  m.config.quant.apply_during = "rollout";
  cut(m, {"o_proj"});
  CHECK(find(judge(m), "gradient-missing"));
  m.gradients.front().finite = false;
  CHECK(find(judge(m), "gradient-not-finite"));
}

TEST_CASE("warnings: twice, rollout, evaluation, reward, error") {
  auto m = clean();
  m.report.twice = {"model.layers.0.self_attn.q_proj"};
  m.config.quant.apply_during = "training";
  m.evaluated_quant = "none";
  m.groups_with_spread = 0;
  m.errors[3].activation_sqnr_db = 4;
  const auto findings = judge(m);
  for (const auto* id : {"quantized-twice", "rollout-differs", "eval-differs", "no-reward-spread", "large-error"}) {
    INFO(id);
    REQUIRE(find(findings, id));
    CHECK(find(findings, id)->severity == Severity::warning);
    CHECK_FALSE(find(findings, id)->what.empty());
  }
  auto gap = clean();
  gap.gap_k3 = 0.2;
  CHECK(find(judge(gap), "rollout-gap"));
}

TEST_CASE("the reason for a gap decides between the estimator, rounding and the trainer") {
  const auto with_gap = [](Gap gap) {
    auto m = clean();
    cut(m, {"o_proj", "down_proj"});
    for (auto& gradient : m.gradients)
      if (!gradient.non_zero) gradient.gap = gap;
    return judge(m);
  };
  const auto* estimator = find(with_gap(Gap::estimator), "ste-broken");
  CHECK(estimator);
  const auto rounded = with_gap(Gap::rounding);
  REQUIRE(find(rounded, "gradient-rounded-away"));
  CHECK_THAT(find(rounded, "gradient-rounded-away")->evidence, Catch::Contains("20 get one only without quantizers"));
  const auto cut_off = with_gap(Gap::unreachable);
  REQUIRE(find(cut_off, "gradient-missing"));
  CHECK_THAT(find(cut_off, "gradient-missing")->evidence, Catch::Contains("20 get none even without quantizers"));
}

TEST_CASE("layers, updates, lengths and the ratio") {
  auto m = clean();
  m.layers = {{0, 18}, {1, 16}, {2, 6}, {3, 5.5}};
  m.updates = {{14, 1.0, 0.01, 4, 0.02, 0.0}, {28, 1.0, 0.01, 4, 0.02, 0.01}};
  m.responses = 64;
  m.truncated = 8;
  auto findings = judge(m);
  CHECK(only_info(findings));
  REQUIRE(find(findings, "layer-error"));
  CHECK_THAT(find(findings, "layer-error")->evidence, Catch::Contains("most is lost in layer 2 (10.0 dB)"));
  REQUIRE(find(findings, "first-updates"));
  CHECK_THAT(find(findings, "first-updates")->evidence, Catch::Contains("update 1: 14 of 28") && Catch::Contains("update 2: 28 of 28"));

  m.layers[2].residual_sqnr_db = 2;
  m.truncated = 30;
  m.updates[1].outside_clip = 0.6;
  m.ratio_deviation = 0.01;
  m.never_ran = {"model.layers.0.mlp.up_proj"};
  m.left_out = {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.27.mlp.up_proj"};
  findings = judge(m);
  for (const auto* id : {"falls-apart", "responses-cut", "lr-large", "ratio-not-one"}) {
    INFO(id);
    REQUIRE(find(findings, id));
    CHECK(find(findings, id)->severity == Severity::warning);
    CHECK_FALSE(find(findings, id)->change.empty());
  }
  CHECK_THAT(find(findings, "falls-apart")->evidence, Catch::Contains("from layer 2 on"));
  CHECK_THAT(find(findings, "responses-cut")->evidence, Catch::Contains("30 of 64 at 1024 tokens"));
  REQUIRE(find(findings, "quantizer-never-ran"));
  CHECK(find(findings, "quantizer-never-ran")->severity == Severity::error);
  REQUIRE(find(findings, "left-out"));
  CHECK_THAT(find(findings, "left-out")->evidence, Catch::Contains("3 of 17 projections, in model.layers.0 (2), model.layers.27 (1)"));

  m.updates = {{14, 1.0, 1e-6, 4, 1e-6, 0.0}, {28, 1.0, 1e-6, 4, 1e-6, 0.0}};
  findings = judge(m);
  REQUIRE(find(findings, "lr-small"));
  CHECK_THAT(find(findings, "lr-small")->evidence, Catch::Contains("80 updates of that size add up to 8e-05"));
}

TEST_CASE("gradients in FP4 and stochastic rounding are said, with what they do") {
  auto m = clean();
  m.config.quant.backward = "fp4";
  m.gradient_error = 0.13;
  m.gradient_cosine = 0.99;
  m.config.quant.mode = "te";
  auto findings = judge(m);
  CHECK(only_info(findings));
  REQUIRE(find(findings, "gradient-rounded"));
  CHECK_THAT(find(findings, "gradient-rounded")->evidence, Catch::Contains("13.0 %") && Catch::Contains("0.9900"));
  m.config.quant.format = "mxfp4";
  for (const char* mode : {"", "floor", "even"}) {
    m.config.quant.mode = mode;
    findings = judge(m);
    REQUIRE(find(findings, "gradient-biased"));
    CHECK(find(findings, "gradient-biased")->severity == Severity::warning);
    CHECK_FALSE(find(findings, "gradient-rounded"));
  }
  m.config.quant.mode = "rceil";
  CHECK(only_info(judge(m)));
  m.config.quant.rounding = "stochastic";
  REQUIRE(find(judge(m), "rollout-same"));
  CHECK_THAT(find(judge(m), "rollout-same")->what, Catch::Contains("draws anew"));
  m.gap_k3 = 1;
  REQUIRE(find(judge(m), "rollout-gap"));
  CHECK_THAT(find(judge(m), "rollout-gap")->change, Catch::Contains("quant.rounding = \"nearest\""));
}

TEST_CASE("beside training, each finding is said once, in the step where it appears") {
  spec::Config config;
  FindingWatch watch(config);
  Metrics metrics{{"actor/first_ratio_max_deviation", 1e-7}, {"rollout_corr/k3_kl", 1e-4}, {"rollout/groups_sampled", 8},
                  {"rollout/groups_with_spread", 3}, {"response_length/clip_ratio", 0.1}, {"actor/update_norm", 0.01},
                  {"actor/weight_norm", 2}, {"actor/lr", 1e-5}, {"actor/updates", 4}, {"actor/pg_clipfrac", 0.01},
                  {"actor/grad_norm", 1}};
  CHECK(watch.look(metrics).empty());
  metrics["response_length/clip_ratio"] = 0.9;
  metrics["actor/pg_clipfrac"] = 0.7;
  auto findings = watch.look(metrics);
  REQUIRE(findings.size() == 2);
  CHECK(find(findings, "responses-cut"));
  CHECK(find(findings, "lr-large"));
  CHECK(watch.look(metrics).empty());
  metrics["rollout/groups_with_spread"] = 0;
  metrics["rollout_corr/k3_kl"] = std::numeric_limits<double>::quiet_NaN();
  metrics["actor/first_ratio_max_deviation"] = 0.1;
  findings = watch.look(metrics);
  CHECK(findings.size() == 3);
  for (const auto* id : {"no-reward-spread", "rollout-gap", "ratio-not-one"}) CHECK(find(findings, id));
  metrics["actor/update_norm"] = 1e-9;
  metrics["actor/pg_clipfrac"] = 0;
  findings = watch.look(metrics);
  REQUIRE(find(findings, "lr-small"));
  CHECK_THAT(find(findings, "lr-small")->evidence, Catch::Contains("5e-10 of their norm"));
}

TEST_CASE("the document and the text carry all findings") {
  auto m = clean();
  m.config.quant.ste = false;
  cut(m, {});
  const auto findings = judge(m);
  const auto json = doctor_json(m, findings);
  CHECK(json["findings"].size() == findings.size());
  CHECK(json["gradients"]["with_gradient"] == 0);
  CHECK(json["gradients"]["without"].size() == 28);
  CHECK(json["quantized_modules"] == 14);
  const auto text = doctor_text(m, findings);
  for (const auto& finding : findings) CHECK_THAT(text, Catch::Contains("[" + finding.id + "]"));
}
