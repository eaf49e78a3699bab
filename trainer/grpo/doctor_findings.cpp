#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "experiments/spec/canonical.h"
#include "trainer/grpo/doctor.h"
#include "trainer/grpo/metrics_log.h"

namespace assay::train {
namespace {

// Below this a quantizer leaves less than nine tenths of the signal's energy; on normal data NVFP4 gives 20 dB and MXFP4
// 18.7 (docs/quantization.md).
constexpr double low_sqnr_db = 10;
// Estimated KL between sampler and trainer, per token, from which the policy gradient is no longer that of the policy
// sampled from. Under NVFP4 a tensor scale that depends on the batch gives some thousandths.
constexpr double large_gap_k3 = 0.05;

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

struct Count {
  std::int64_t with = 0, all = 0;
};

std::map<std::string, Count> by_projection(const Measurements& m) {
  std::map<std::string, Count> counts;
  for (const auto& gradient : m.gradients) {
    auto& count = counts[last_part(gradient.projection)];
    ++count.all;
    count.with += gradient.non_zero;
  }
  return counts;
}

Count total(const Measurements& m) {
  Count count;
  for (const auto& gradient : m.gradients) {
    ++count.all;
    count.with += gradient.non_zero;
  }
  return count;
}

std::string coverage_evidence(const Measurements& m) {
  const Count all = total(m);
  std::string text = format("%lld of %lld adapter tensors get a gradient (", static_cast<long long>(all.with),
                            static_cast<long long>(all.all));
  bool first = true;
  for (const auto& [projection, count] : by_projection(m)) {
    text += format("%s%s %lld of %lld", first ? "" : ", ", projection.c_str(), static_cast<long long>(count.with),
                   static_cast<long long>(count.all));
    first = false;
  }
  return text + ")";
}

// Whether activations are quantized in the forward pass that is differentiated.
bool activations_in_training(const Measurements& m) {
  return m.config.quant.apply_during != "rollout" &&
         std::any_of(m.report.modules.begin(), m.report.modules.end(), [](const auto& module) { return module.activation; });
}

// What the layers that no activation quantizer touches say about themselves; empty: there are none.
std::string untouched(const Measurements& m) {
  std::set<std::string> quantized;
  for (const auto& module : m.report.modules)
    if (module.activation) quantized.insert(module.projection);
  Count count;
  for (const auto& gradient : m.gradients)
    if (!quantized.count(gradient.projection)) {
      ++count.all;
      count.with += gradient.non_zero;
    }
  if (count.all == 0) return "";
  return format("; of the %lld tensors of layers left out of quantization %lld keep theirs",
                static_cast<long long>(count.all), static_cast<long long>(count.with));
}

Finding missing_gradient(const Measurements& m) {
  const auto& quant = m.config.quant;
  Finding finding;
  finding.severity = Severity::error;
  finding.evidence = coverage_evidence(m);
  if (!activations_in_training(m)) {
    finding.id = "gradient-missing";
    finding.what = "Some adapter tensors get no gradient, and no activation quantizer is in the way of it";
    finding.change = "report this: it is an error of the trainer, not of the config";
  } else if (quant.ste) {
    finding.id = "ste-broken";
    finding.what = "The straight-through estimator is configured but does not act: the gradient ends at the activation quantizer";
    finding.change = "the quantizer's backward pass must return the gradient unchanged; check that the one that runs is the one with the estimator";
  } else if (quant.hook == "post") {
    finding.id = "ste-missing-post";
    finding.what = "No straight-through estimator behind a post-hook: rounding has no gradient, each quantized layer's output is "
                   "rounded, and so everything that a quantized layer computes is cut off from the loss" + untouched(m);
    finding.change = "quant.ste = true; and quant.hook = \"pre\", since a post-hook leaves the layer's input unquantized, which is not W4A4";
  } else {
    finding.id = "ste-missing-pre";
    finding.what = "No straight-through estimator behind a pre-hook: rounding has no gradient, so everything upstream of a quantized "
                   "input is cut off; only o_proj and down_proj, whose outputs are added to the residual stream, still train" + untouched(m);
    finding.change = "quant.ste = true";
  }
  return finding;
}

void judge_gradients(const Measurements& m, std::vector<Finding>& findings) {
  const auto bad = std::find_if(m.gradients.begin(), m.gradients.end(), [](const auto& g) { return !g.finite; });
  if (bad != m.gradients.end())
    findings.push_back({"gradient-not-finite", Severity::error, "A gradient is NaN or infinite on the very first batch",
                        bad->tensor, "check the weights and the data; try a quantization format of its own to find which part it is"});
  const Count all = total(m);
  if (all.with < all.all)
    findings.push_back(missing_gradient(m));
  else
    findings.push_back({"coverage", Severity::info, "Every adapter tensor gets a gradient", coverage_evidence(m), ""});
}

void judge_attachment(const Measurements& m, std::vector<Finding>& findings) {
  const auto twice = m.report.twice.size();
  if (twice == 0) return;
  findings.push_back(
      {"quantized-twice", Severity::warning,
       "Quantizers sit on the LoRA wrapper and again on the base layer inside it, so these inputs or outputs are quantized twice",
       format("%zu of %lld projections, %zu quantized modules in all; the first is %s", twice,
              static_cast<long long>(m.report.projections), m.report.modules.size(), m.report.twice.front().c_str()),
       "add \"^.*\\\\.base_layer$\" to quant.exclude"});
}

void judge_sampling(const Measurements& m, std::vector<Finding>& findings) {
  const auto& quant = m.config.quant;
  // Where activations are quantized, a mode's fp32 tensor scale depends on the batch.
  const bool batch_dependent = quant.format == "nvfp4" && spec::has_tensor_scale(quant.mode) &&
                               quant.injection_point != "weight" && quant.tensor_scale == "tensor";
  const std::string gap = format("over %lld tokens the log-probs differ by %.4f on average and %.3f at most; KL about %.5f a token",
                                 static_cast<long long>(m.tokens), m.gap_mean, m.gap_max, m.gap_k3);
  if (quant.format != "none" && quant.apply_during != "both")
    findings.push_back({"rollout-differs", Severity::warning,
                        quant.apply_during == "training"
                            ? "Sampling runs unquantized and training quantized: the policy that is trained is not the one sampled from"
                            : "Sampling runs quantized and training unquantized: the policy that is trained is not the one sampled from",
                        gap, "quant.apply_during = \"both\""});
  else if (!(m.gap_k3 <= large_gap_k3))  // NaN is large too
    findings.push_back({"rollout-gap", Severity::warning,
                        "Sampling and training see the same quantization by config, and still give different log-probs", gap,
                        batch_dependent
                            ? "quant.tensor_scale = \"row\": then a token's value does not depend on its batch"
                            : ""});
  else
    findings.push_back({"rollout-same", Severity::info,
                        std::string("Sampling and training see the same ") + (quant.format == "none" ? "model" : "quantization") +
                            (batch_dependent ? "; what differs is the tensor scale, which depends on what else is in the batch "
                                               "(with quant.tensor_scale = \"row\" it would not)"
                                             : ""),
                        gap, ""});
  if (m.evaluated_quant != m.trained_quant)
    findings.push_back({"eval-differs", Severity::warning,
                        "The accuracy is measured under another quantization than the training runs under",
                        "evaluated under " + m.evaluated_quant + ", trained under " + m.trained_quant,
                        "eval.quant = \"as_training\" with quant.apply_during = \"both\""});
}

void judge_reward(const Measurements& m, std::vector<Finding>& findings) {
  const std::string evidence = format("%lld of %lld groups of %lld samples; mean score %.3f",
                                      static_cast<long long>(m.groups_with_spread), static_cast<long long>(m.groups),
                                      static_cast<long long>(m.config.rollout.samples_per_prompt), m.mean_score);
  if (m.groups_with_spread == 0)
    findings.push_back({"no-reward-spread", Severity::warning,
                        "No group has both right and wrong answers, so every advantage is zero and there is nothing to learn from",
                        evidence, m.mean_score == 0
                                      ? "make the task easier, the groups larger, or check prompt.text against reward.scorer"
                                      : "make the task harder, or raise rollout.temperature"});
  else
    findings.push_back({"reward-spread", Severity::info, "Some groups have both right and wrong answers", evidence, ""});
}

struct MeanError {
  double weight = 0, activation = 0;
  std::int64_t weights = 0, activations = 0;
};

// Over projections: where a wrapper and its base layer both quantize, the second finds numbers that are rounded already,
// and its error of next to nothing says nothing; the larger error of the two counts.
MeanError mean_error(const Measurements& m) {
  std::map<std::string, double> weights, activations;
  const auto keep_worse = [](std::map<std::string, double>& worst, const std::string& projection, double sqnr) {
    if (!std::isfinite(sqnr)) return;
    const auto [entry, is_new] = worst.emplace(projection, sqnr);
    if (!is_new) entry->second = std::min(entry->second, sqnr);
  };
  for (std::size_t i = 0; i < m.errors.size(); ++i) {
    const auto& error = m.errors[i];
    const auto& projection = m.report.modules[i].projection;
    if (error.weight_sqnr_db != 0) keep_worse(weights, projection, error.weight_sqnr_db);
    if (error.activation) keep_worse(activations, projection, error.activation_sqnr_db);
  }
  const auto average = [](const std::map<std::string, double>& values) {
    double sum = 0;
    for (const auto& [projection, value] : values) sum += value;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
  };
  return {average(weights), average(activations), static_cast<std::int64_t>(weights.size()),
          static_cast<std::int64_t>(activations.size())};
}

void judge_errors(const Measurements& m, std::vector<Finding>& findings) {
  if (m.errors.empty()) return;
  const MeanError mean = mean_error(m);
  std::string evidence;
  const auto say = [&](const char* what, double sqnr, std::int64_t projections) {
    if (projections > 0)
      evidence += format("%s%s %.1f dB (%lld projections)", evidence.empty() ? "" : ", ", what, sqnr,
                         static_cast<long long>(projections));
  };
  say("weights", mean.weight, mean.weights);
  say("activations", mean.activation, mean.activations);
  findings.push_back({"quantization-error", Severity::info, "Signal to quantization noise, mean over projections", evidence, ""});
  std::string low;
  std::int64_t count = 0;
  for (const auto& error : m.errors) {
    const bool weight = error.weight_sqnr_db != 0 && !(error.weight_sqnr_db >= low_sqnr_db);
    const bool activation = error.activation && !(error.activation_sqnr_db >= low_sqnr_db);
    if (!weight && !activation) continue;
    if (++count <= 3)
      low += format("%s%s %.1f dB", low.empty() ? "" : ", ", error.module.c_str(),
                    weight ? error.weight_sqnr_db : error.activation_sqnr_db);
  }
  if (count > 0)
    findings.push_back({"large-error", Severity::warning,
                        format("Quantization leaves little of %lld modules (signal to noise below %.0f dB)",
                               static_cast<long long>(count), low_sqnr_db),
                        low, "leave them out with quant.exclude, or take a finer format"});
}

}  // namespace

const char* name(Severity severity) {
  switch (severity) {
    case Severity::info: return "info";
    case Severity::warning: return "warning";
    case Severity::error: return "error";
  }
  return "error";
}

std::vector<Finding> judge(const Measurements& m) {
  std::vector<Finding> findings;
  judge_gradients(m, findings);
  judge_attachment(m, findings);
  judge_sampling(m, findings);
  judge_reward(m, findings);
  judge_errors(m, findings);
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
  return findings;
}

nlohmann::json doctor_json(const Measurements& m, const std::vector<Finding>& findings) {
  using nlohmann::json;
  json listed = json::array(), without = json::array(), modules = json::array(), projections = json::object();
  for (const auto& finding : findings)
    listed.push_back({{"id", finding.id},
                      {"severity", name(finding.severity)},
                      {"what", finding.what},
                      {"evidence", finding.evidence},
                      {"change", finding.change}});
  for (const auto& gradient : m.gradients)
    if (!gradient.non_zero) without.push_back(gradient.tensor);
  for (const auto& [projection, count] : by_projection(m))
    projections[projection] = {{"with_gradient", count.with}, {"tensors", count.all}};
  for (const auto& error : m.errors) {
    json module{{"name", error.module}};
    if (error.weight_sqnr_db != 0) module["weight_sqnr_db"] = json_number(error.weight_sqnr_db);
    if (error.activation) {
      module["activation_sqnr_db"] = json_number(error.activation_sqnr_db);
      module["activation_dead_share"] = error.dead_share;
    }
    modules.push_back(module);
  }
  const Count all = total(m);
  const MeanError mean = mean_error(m);
  return {{"findings", listed},
          {"quantized_modules", m.report.modules.size()},
          {"quantized_projections", m.report.projections},
          {"twice", m.report.twice},
          {"gradients",
           {{"tensors", all.all}, {"with_gradient", all.with}, {"without", without}, {"by_projection", projections}}},
          {"rollout",
           {{"tokens", m.tokens},
            {"mean_gap", json_number(m.gap_mean)},
            {"max_gap", json_number(m.gap_max)},
            {"k3_kl", json_number(m.gap_k3)},
            {"apply_during", m.config.quant.apply_during}}},
          {"reward", {{"groups", m.groups}, {"with_spread", m.groups_with_spread}, {"mean_score", m.mean_score}}},
          {"quant", {{"trained", m.trained_quant}, {"evaluated", m.evaluated_quant}}},
          {"error", {{"weight_sqnr_db", mean.weight}, {"activation_sqnr_db", mean.activation}, {"modules", modules}}},
          {"seconds", m.seconds}};
}

std::string doctor_text(const Measurements& m, const std::vector<Finding>& findings) {
  const Count all = total(m);
  std::string text = format("%zu modules quantized (%lld projections, %zu of them twice), %lld of %lld adapter tensors with a gradient, %.1f s\n",
                            m.report.modules.size(), static_cast<long long>(m.report.projections), m.report.twice.size(),
                            static_cast<long long>(all.with), static_cast<long long>(all.all), m.seconds);
  for (const auto& finding : findings) {
    text += "\n" + std::string(name(finding.severity)) + ": " + finding.what + ". [" + finding.id + "]\n";
    if (!finding.evidence.empty()) text += "  seen: " + finding.evidence + "\n";
    if (!finding.change.empty()) text += "  change: " + finding.change + "\n";
  }
  return text;
}

}  // namespace assay::train
