#include "trainer/grpo/finding_watch.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/grpo/doctor_summary.h"

namespace assay::train {
namespace {

// As in doctor_findings.cpp, here of a whole step.
constexpr double ratio_tolerance = 1e-4, large_gap_k3 = 0.05, many_cut = 0.5, large_clip_share = 0.5;
// Of the adapters' norm in one step: above the first, what was learned before is overwritten; below the second, nothing moves.
constexpr double large_update = 0.3, small_update = 1e-7;

std::optional<double> get(const Metrics& metrics, const char* key) {
  const auto found = metrics.find(key);
  if (found == metrics.end()) return std::nullopt;
  return found->second;
}

}  // namespace

std::vector<Finding> FindingWatch::look(const Metrics& metrics) {
  std::vector<Finding> findings;
  const auto find = [&](const char* id, const char* what, const std::string& evidence, const char* change) {
    if (said_.insert(id).second) findings.push_back({id, Severity::warning, what, evidence, change});
  };
  if (const auto deviation = get(metrics, "actor/first_ratio_max_deviation"); deviation && !(*deviation <= ratio_tolerance))
    find("ratio-not-one", "The ratio on the first mini-batch is not 1, before any update of the step",
         format("actor/first_ratio_max_deviation = %.3g", *deviation),
         "with dropout this is as it must be; otherwise report it: it is an error of the trainer");
  if (const auto gap = get(metrics, "rollout_corr/k3_kl"); gap && !(*gap <= large_gap_k3)) {
    const auto& quant = config_.quant;
    find("rollout-gap", "The sampler's log-probs and the training forward's have moved apart",
         format("rollout_corr/k3_kl = %.4f a token", *gap),
         quant.format != "none" && quant.apply_during != "both" ? "quant.apply_during = \"both\""
         : quant.format != "none" && quant.rounding == "stochastic" ? "quant.rounding = \"nearest\": then a token's value does not depend on the draw"
         : quant.format != "none" && quant.tensor_scale == "tensor" ? "quant.tensor_scale = \"row\": then a token's value does not depend on its batch"
                                                                    : "");
  }
  const auto groups = get(metrics, "rollout/groups_sampled"), spread = get(metrics, "rollout/groups_with_spread");
  if (groups && spread && *groups > 0 && *spread == 0)
    find("no-reward-spread", "No group of the step has both right and wrong answers, so there is nothing to learn from",
         format("0 of %.0f groups; mean score %.3f", *groups, get(metrics, "rollout/score/mean").value_or(0)),
         "an easier or a harder task, larger groups, a higher rollout.temperature; check prompt.text against reward.scorer");
  if (const auto cut = get(metrics, "response_length/clip_ratio"); cut && *cut > many_cut)
    find("responses-cut", "Most responses are cut at the limit before they end, so they are scored as they break off",
         format("%.0f %% at %lld tokens", 100 * *cut, static_cast<long long>(config_.rollout.max_response_length)),
         "raise rollout.max_response_length, or ask for shorter answers in prompt.text");
  const auto moved = get(metrics, "actor/update_norm"), norm = get(metrics, "actor/weight_norm"), lr = get(metrics, "actor/lr"),
             updates = get(metrics, "actor/updates"), clipped = get(metrics, "actor/pg_clipfrac");
  if (moved && norm && lr && updates && *lr > 0 && *updates > 0 && *norm > 0) {
    const double share = *moved / *norm;
    const std::string evidence = format("the step moved the adapters by %.2g of their norm, and %.0f %% of the tokens were clipped",
                                        share, 100 * clipped.value_or(0));
    if (!(share <= large_update) || clipped.value_or(0) > large_clip_share)
      find("lr-large", "The learning rate is too large: a step moves the policy further than clipping is made for", evidence,
           "a smaller optimizer.lr, a tenth to begin with");
    else if (share < small_update && get(metrics, "actor/grad_norm").value_or(0) > 0)
      find("lr-small", "The learning rate is too small: a step leaves the adapters where they were", evidence, "a larger optimizer.lr");
  }
  return findings;
}

void FindingWatch::add(std::int64_t step, const Metrics& metrics, MetricsLog& log) {
  for (const Finding& finding : look(metrics))
    log.event(step, "finding", finding.what + (finding.change.empty() ? "" : "; to change: " + finding.change),
              {{"id", finding.id}, {"severity", name(finding.severity)}, {"evidence", finding.evidence}, {"change", finding.change}});
}

}  // namespace assay::train
