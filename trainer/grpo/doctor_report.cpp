// The doctor's findings as a document and as text.
#include <nlohmann/json.hpp>

#include "trainer/grpo/doctor_summary.h"
#include "trainer/grpo/metrics_log.h"

namespace assay::train {

nlohmann::json doctor_json(const Measurements& m, const std::vector<Finding>& findings) {
  using nlohmann::json;
  json listed = json::array(), without = json::array(), modules = json::array(), projections = json::object(),
       layers = json::array(), updates = json::array();
  for (const auto& finding : findings)
    listed.push_back({{"id", finding.id},
                      {"severity", name(finding.severity)},
                      {"what", finding.what},
                      {"evidence", finding.evidence},
                      {"change", finding.change}});
  for (const auto& gradient : m.gradients)
    if (!gradient.non_zero) without.push_back({{"tensor", gradient.tensor}, {"reason", name(gradient.gap)}});
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
  for (const auto& layer : m.layers)
    layers.push_back({{"layer", layer.layer}, {"residual_sqnr_db", json_number(layer.residual_sqnr_db)}});
  for (const auto& update : m.updates)
    updates.push_back({{"with_gradient", update.covered},
                       {"grad_norm", json_number(update.grad_norm)},
                       {"update_norm", json_number(update.update_norm)},
                       {"weight_norm", json_number(update.weight_norm)},
                       {"logprob_change", json_number(update.logprob_change)},
                       {"outside_clip", update.outside_clip}});
  const Count all = total(m);
  const MeanError mean = mean_error(m);
  return {{"findings", listed},
          {"quantized_modules", m.report.modules.size()},
          {"quantized_projections", m.report.projections},
          {"twice", m.report.twice},
          {"never_ran", m.never_ran},
          {"left_out", m.left_out},
          {"gradients",
           {{"tensors", all.all}, {"with_gradient", all.with}, {"without", without}, {"by_projection", projections}}},
          {"rounded_gradient", m.gradient_error < 0 ? json(nullptr)
                                                    : json{{"relative_error", json_number(m.gradient_error)},
                                                           {"cosine", json_number(m.gradient_cosine)}}},
          {"rollout",
           {{"tokens", m.tokens},
            {"mean_gap", json_number(m.gap_mean)},
            {"max_gap", json_number(m.gap_max)},
            {"k3_kl", json_number(m.gap_k3)},
            {"gap_between_phases", json_number(m.gap_phase)},
            {"gap_between_batches", json_number(m.gap_batch)},
            {"ratio_max_deviation", json_number(m.ratio_deviation)},
            {"responses", m.responses},
            {"truncated", m.truncated},
            {"apply_during", m.config.quant.apply_during}}},
          {"reward", {{"groups", m.groups}, {"with_spread", m.groups_with_spread}, {"mean_score", m.mean_score}}},
          {"quant", {{"trained", m.trained_quant}, {"evaluated", m.evaluated_quant}}},
          {"error", {{"weight_sqnr_db", mean.weight}, {"activation_sqnr_db", mean.activation}, {"modules", modules}, {"layers", layers}}},
          {"updates", {{"made_up_rewards", m.made_up_rewards}, {"list", updates}}},
          {"random_weights", m.random_weights},
          {"seconds", m.seconds},
          {"peak_memory_gb", m.peak_memory_gb}};
}

std::string doctor_text(const Measurements& m, const std::vector<Finding>& findings) {
  const Count all = total(m);
  std::string text = format("%zu modules quantized (%lld projections, %zu of them twice), %lld of %lld adapter tensors with a gradient, %.1f s, %.2f GiB%s\n",
                            m.report.modules.size(), static_cast<long long>(m.report.projections), m.report.twice.size(),
                            static_cast<long long>(all.with), static_cast<long long>(all.all), m.seconds, m.peak_memory_gb,
                            m.random_weights ? ", random weights" : "");
  for (const auto& finding : findings) {
    text += "\n" + std::string(name(finding.severity)) + ": " + finding.what + ". [" + finding.id + "]\n";
    if (!finding.evidence.empty()) text += "  seen: " + finding.evidence + "\n";
    if (!finding.change.empty()) text += "  change: " + finding.change + "\n";
  }
  return text;
}

}  // namespace assay::train
