#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "experiments/spec/canonical.h"
#include "trainer/grpo/doctor_summary.h"

namespace assay::train {
namespace {

// Below this a quantizer leaves less than nine tenths of the signal's energy; on normal data NVFP4 gives 20 dB and MXFP4
// 18.7 (docs/quantization.md).
constexpr double low_sqnr_db = 10;
// Estimated KL between sampler and trainer, per token, from which the policy gradient is no longer that of the policy
// sampled from. Under NVFP4 a tensor scale that depends on the batch gives some thousandths.
constexpr double large_gap_k3 = 0.05;
// The residual stream behind a layer: here half of the signal's energy is noise.
constexpr double fallen_apart_db = 3;
// More responses cut than this, and what is learned is to be short.
constexpr double many_cut = 0.2;
// The same forward pass twice differs by nothing at all; float32 sums in another order by some 1e-6.
constexpr double ratio_tolerance = 1e-4;
// One update after which so many tokens' ratios have left the clip range has gone further than clipping is made for.
constexpr double large_outside_clip = 0.3;
// If all updates of the run pulled the same way, log-probs would move by less than this: nothing would be learned.
constexpr double small_total_change = 0.01;

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

std::int64_t count_gap(const Measurements& m, Gap gap) {
  return std::count_if(m.gradients.begin(), m.gradients.end(), [&](const auto& g) { return !g.non_zero && g.gap == gap; });
}

// "; of the 60 without, 56 have one when a straight-through estimator is put behind every quantizer, …"
std::string gap_evidence(const Measurements& m) {
  std::string text;
  const auto say = [&](Gap gap, const char* what) {
    if (const auto count = count_gap(m, gap); count > 0)
      text += format("%s%lld %s", text.empty() ? "; of those without, " : ", ", static_cast<long long>(count), what);
  };
  say(Gap::estimator, "get one when an estimator stands behind every quantizer");
  say(Gap::rounding, "get one only without quantizers, because what they multiply is rounded to zero");
  say(Gap::unreachable, "get none even without quantizers");
  return text;
}

Finding missing_gradient(const Measurements& m) {
  const auto& quant = m.config.quant;
  Finding finding;
  finding.severity = Severity::error;
  finding.evidence = coverage_evidence(m) + gap_evidence(m);
  const bool known = std::any_of(m.gradients.begin(), m.gradients.end(), [](const auto& g) { return g.gap != Gap::none; });
  const bool rounding = known && count_gap(m, Gap::rounding) > 0 && count_gap(m, Gap::estimator) == 0;
  const bool other = known && count_gap(m, Gap::unreachable) > 0 && count_gap(m, Gap::estimator) == 0;
  if (!activations_in_training(m) || other) {
    finding.id = "gradient-missing";
    finding.what = "Some adapter tensors get no gradient, and no activation quantizer is in the way of it";
    finding.change = "report this: it is an error of the trainer, not of the config";
  } else if (rounding) {
    finding.id = "gradient-rounded-away";
    finding.what = "Some adapter tensors get no gradient because everything that they multiply is rounded to zero";
    finding.change = "leave those layers out with quant.exclude, or take a finer format or mode";
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
  if (const auto twice = m.report.twice.size(); twice > 0)
    findings.push_back(
        {"quantized-twice", Severity::warning,
         "Quantizers sit on the LoRA wrapper and again on the base layer inside it, so these inputs or outputs are quantized twice",
         format("%zu of %lld projections, %zu quantized modules in all; the first is %s; %lld of these quantizers got numbers "
                "that were rounded already",
                twice, static_cast<long long>(m.report.projections), m.report.modules.size(), m.report.twice.front().c_str(),
                static_cast<long long>(m.rounded_again)),
         "add \"^.*\\.base_layer$\" to quant.exclude"});
  if (!m.never_ran.empty())
    findings.push_back({"quantizer-never-ran", Severity::error,
                        "Activation quantizers are attached that no forward pass ever called",
                        format("%zu of %zu modules; the first is %s", m.never_ran.size(), m.report.modules.size(),
                               m.never_ran.front().c_str()),
                        "report this: it is an error of the trainer, not of the config"});
  if (!m.left_out.empty()) {
    std::map<std::string, std::int64_t> layers;  // "model.layers.0" -> how many
    for (const auto& projection : m.left_out) ++layers[projection.substr(0, projection.find('.', std::string("model.layers.").size()))];
    std::string evidence = format("%zu of %zu projections, in ", m.left_out.size(),
                                  m.left_out.size() + static_cast<std::size_t>(m.report.projections));
    std::size_t said = 0;
    for (const auto& [layer, count] : layers) {
      if (said == 4) {
        evidence += format(" and %zu more", layers.size() - said);
        break;
      }
      evidence += format("%s%s (%lld)", said++ ? ", " : "", layer.c_str(), static_cast<long long>(count));
    }
    findings.push_back({"left-out", Severity::info, "Some projections are never quantized, as quant.targets and quant.exclude say",
                        evidence, ""});
  }
}

void judge_sampling(const Measurements& m, std::vector<Finding>& findings) {
  const auto& quant = m.config.quant;
  // Where activations are quantized, a mode's fp32 tensor scale depends on the batch.
  const bool batch_dependent = quant.format == "nvfp4" && spec::has_tensor_scale(quant.mode) &&
                               quant.injection_point != "weight" && quant.tensor_scale == "tensor";
  const bool drawn = quant.format != "none" && quant.injection_point != "weight" && quant.rounding == "stochastic";
  const char* batch_cause = drawn && batch_dependent
                                ? "quant.rounding draws anew for each pass, and a tensor's scale depends on what else is in it"
                            : drawn             ? "quant.rounding: each pass draws anew"
                            : batch_dependent   ? "quant.tensor_scale: a tensor's scale depends on what else is in it"
                                                : "nothing here depends on the batch but float32 summation";
  const std::string gap = format("over %lld tokens the log-probs differ by %.4f on average and %.3f at most; KL about %.5f a token",
                                 static_cast<long long>(m.tokens), m.gap_mean, m.gap_max, m.gap_k3) +
                          format("; %.4f of it between the phases (quant.apply_during), %.4f between the batches (%s)", m.gap_phase,
                                 m.gap_batch,
                                 batch_cause);
  if (quant.format != "none" && quant.apply_during != "both")
    findings.push_back({"rollout-differs", Severity::warning,
                        quant.apply_during == "training"
                            ? "Sampling runs unquantized and training quantized: the policy that is trained is not the one sampled from"
                            : "Sampling runs quantized and training unquantized: the policy that is trained is not the one sampled from",
                        gap, "quant.apply_during = \"both\""});
  else if (!(m.gap_k3 <= large_gap_k3))  // NaN is large too
    findings.push_back({"rollout-gap", Severity::warning,
                        "Sampling and training see the same quantization by config, and still give different log-probs", gap,
                        drawn             ? "quant.rounding = \"nearest\": then a token's value does not depend on the draw"
                        : batch_dependent ? "quant.tensor_scale = \"row\": then a token's value does not depend on its batch"
                                          : ""});
  else
    findings.push_back({"rollout-same", Severity::info,
                        std::string("Sampling and training see the same ") + (quant.format == "none" ? "model" : "quantization") +
                            (drawn ? "; what differs is the stochastic rounding, which draws anew for each pass (with "
                                     "quant.rounding = \"nearest\" it would not)"
                             : batch_dependent ? "; what differs is the tensor scale, which depends on what else is in the batch "
                                               "(with quant.tensor_scale = \"row\" it would not)"
                                             : ""),
                        gap, ""});
  if (!(m.ratio_deviation <= ratio_tolerance))
    findings.push_back({"ratio-not-one", Severity::warning,
                        "The ratio on the first mini-batch is not 1: the same forward pass twice, before any update, gives different "
                        "log-probs, so clipping acts on noise",
                        format("largest |ratio - 1| %.2g", m.ratio_deviation),
                        "with dropout this is as it must be; otherwise report it: it is an error of the trainer"});
  if (m.evaluated_quant != m.trained_quant)
    findings.push_back({"eval-differs", Severity::warning,
                        "The accuracy is measured under another quantization than the training runs under",
                        "evaluated under " + m.evaluated_quant + ", trained under " + m.trained_quant,
                        "eval.quant = \"as_training\" with quant.apply_during = \"both\""});
}

void judge_reward(const Measurements& m, std::vector<Finding>& findings) {
  if (m.groups == 0) return;  // random weights: no problems, no rewards
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
  if (m.responses > 0 && static_cast<double>(m.truncated) > many_cut * static_cast<double>(m.responses))
    findings.push_back({"responses-cut", Severity::warning,
                        "Many responses are cut at the limit before they end, so they are scored as they break off",
                        format("%lld of %lld at %lld tokens", static_cast<long long>(m.truncated),
                               static_cast<long long>(m.responses), static_cast<long long>(m.config.rollout.max_response_length)),
                        "raise rollout.max_response_length, or ask for shorter answers in prompt.text; if none ends at any length, "
                        "check eos_token_id in the model's config.json"});
}

void judge_updates(const Measurements& m, std::vector<Finding>& findings) {
  if (m.updates.empty()) return;
  const auto& last = m.updates.back();
  std::string evidence;
  for (std::size_t i = 0; i < m.updates.size(); ++i) {
    const auto& u = m.updates[i];
    evidence += format("%supdate %zu: %lld of %zu tensors with a gradient, moved by %.2g of their norm, log-probs by %.2g on average, "
                       "%.1f %% of the tokens out of the clip range", i ? "; " : "", i + 1, static_cast<long long>(u.covered),
                       m.gradients.size(), u.weight_norm > 0 ? u.update_norm / u.weight_norm : 0, u.logprob_change,
                       100 * u.outside_clip);
  }
  if (m.made_up_rewards) evidence += "; on made-up rewards, as no group has a spread";
  const auto& grpo = m.config.grpo;
  const double per_step = std::ceil(static_cast<double>(grpo.train_batch_size) / static_cast<double>(std::max<std::int64_t>(grpo.mini_batch_size, 1)));
  const double updates = per_step * static_cast<double>(m.config.train.steps);
  const bool moves = last.update_norm > 0;
  const double largest = std::max_element(m.updates.begin(), m.updates.end(), [](const auto& a, const auto& b) {
                           return a.outside_clip < b.outside_clip;
                         })->outside_clip;
  if (largest > large_outside_clip)
    findings.push_back({"lr-large", Severity::warning, "The learning rate is too large: one update throws many tokens out of the clip range",
                        evidence, "a smaller optimizer.lr, a tenth to begin with"});
  else if (moves && last.logprob_change * updates < small_total_change)
    findings.push_back({"lr-small", Severity::warning,
                        "The learning rate is too small: even if all updates of the run pulled the same way, log-probs would hardly move",
                        evidence + format("; %.0f updates of that size add up to %.2g", updates, last.logprob_change * updates),
                        "a larger optimizer.lr"});
  else
    findings.push_back({"first-updates", Severity::info, "What the first two updates do at the full learning rate", evidence, ""});
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

void judge_rounded_gradient(const Measurements& m, std::vector<Finding>& findings) {
  if (m.gradient_error < 0) return;
  const auto& quant = m.config.quant;
  const std::string evidence = format("the adapters' gradient differs from that of an fp32 backward by %.1f %% of its norm, cosine %.4f",
                                      100 * m.gradient_error, m.gradient_cosine);
  // Scales that round a block's maximum above its largest number clip it, and what is clipped has no mean to be right in.
  const std::string mode = quant.mode.empty() ? spec::default_mode(quant.format) : quant.mode;
  if (mode == "floor" || mode == "even")
    findings.push_back({"gradient-biased", Severity::warning,
                        "Gradients are quantized with a mode that clips the largest of a block, so stochastic rounding is not "
                        "right in the mean",
                        evidence, "quant.mode = \"rceil\", which clips nothing"});
  else
    findings.push_back({"gradient-rounded", Severity::info,
                        "Gradients are quantized too, rounded stochastically behind a Hadamard transform: other ones in each "
                        "step, nearly right in the mean",
                        evidence, ""});
}

void judge_layers(const Measurements& m, std::vector<Finding>& findings) {
  if (m.layers.empty()) return;
  const LayerError* worst = &m.layers.front();
  std::size_t fall = 0;  // the layer behind which most is lost
  double lost = 0;
  for (std::size_t i = 0; i < m.layers.size(); ++i) {
    if (m.layers[i].residual_sqnr_db < worst->residual_sqnr_db) worst = &m.layers[i];
    const double now = i == 0 ? 0 : m.layers[i - 1].residual_sqnr_db - m.layers[i].residual_sqnr_db;
    if (now > lost) {
      lost = now;
      fall = i;
    }
  }
  std::string evidence = format("residual stream, signal to noise: %.1f dB behind the first layer, %.1f dB behind the last, least %.1f dB "
                                "behind layer %lld", m.layers.front().residual_sqnr_db, m.layers.back().residual_sqnr_db,
                                worst->residual_sqnr_db, static_cast<long long>(worst->layer));
  if (lost > 0) evidence += format("; most is lost in layer %zu (%.1f dB)", fall, lost);
  const auto apart = std::find_if(m.layers.begin(), m.layers.end(),
                                  [](const auto& layer) { return !(layer.residual_sqnr_db >= fallen_apart_db); });
  if (apart != m.layers.end())
    findings.push_back({"falls-apart", Severity::warning,
                        "Under quantization the model falls apart: from some layer on, most of the residual stream is noise",
                        format("from layer %lld on; ", static_cast<long long>(apart->layer)) + evidence,
                        "leave that layer and its neighbours out with quant.exclude, or take a finer format"});
  else
    findings.push_back({"layer-error", Severity::info, "How quantization error comes together over the layers", evidence, ""});
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

const char* name(Gap gap) {
  switch (gap) {
    case Gap::none: return "none";
    case Gap::estimator: return "estimator";
    case Gap::rounding: return "rounding";
    case Gap::unreachable: return "unreachable";
  }
  return "none";
}

std::vector<Finding> judge(const Measurements& m) {
  std::vector<Finding> findings;
  judge_gradients(m, findings);
  judge_attachment(m, findings);
  judge_sampling(m, findings);
  judge_reward(m, findings);
  judge_errors(m, findings);
  judge_rounded_gradient(m, findings);
  judge_layers(m, findings);
  judge_updates(m, findings);
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
  return findings;
}

}  // namespace assay::train
