#include "trainer/grpo/doctor_measure.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "trainer/grpo/advantage.h"
#include "trainer/grpo/memory.h"
#include "trainer/grpo/seeds.h"

namespace assay::train {
namespace {

Sampled sample_groups(Session& session, std::int64_t count, Measurements& result) {
  const auto seed = static_cast<std::uint64_t>(session.config.train.seed);
  DataOrder order(session.train.problems.size(), seed);
  const auto problems = order.next(count);
  Sampled sampled;
  for (const auto problem : problems) sampled.prompts.push_back(session.train.prompts[problem]);
  session.decoder->set_phase(Phase::rollout);
  sampled.rollout = sample(*session.decoder, sampled.prompts, session.sampling(derive_seed(seed, 0, Purpose::doctor)));

  const std::int64_t group = session.config.rollout.samples_per_prompt;
  std::vector<ToScore> answers;
  for (std::size_t row = 0; row < sampled.rollout.responses.size(); ++row)
    answers.push_back({session.completion(sampled.rollout.responses[row]),
                       &session.train.problems[problems[row / static_cast<std::size_t>(group)]]});
  for (const Score& one : session.rewarder->score(answers, /*evaluation=*/false)) {
    sampled.scores.push_back(one.score);
    result.mean_score += one.score;
  }
  result.mean_score /= static_cast<double>(sampled.scores.size());
  result.groups = count;
  for (std::int64_t g = 0; g < count; ++g) result.groups_with_spread += has_spread(sampled.scores, group, g);
  result.responses = static_cast<std::int64_t>(sampled.rollout.responses.size());
  result.truncated = std::count(sampled.rollout.truncated.begin(), sampled.rollout.truncated.end(), true);
  return sampled;
}

// Random prompts of as many tokens as the responses have; there is nothing that could end a response early.
Sampled sample_random(Session& session) {
  constexpr std::int64_t prompts = 2, tokens = 16;
  const auto seed = static_cast<std::uint64_t>(session.config.train.seed);
  std::mt19937_64 random(derive_seed(seed, 2, Purpose::doctor));
  Sampled sampled;
  for (std::int64_t p = 0; p < prompts; ++p) {
    sampled.prompts.emplace_back();
    for (std::int64_t t = 0; t < tokens; ++t)
      sampled.prompts.back().push_back(
          static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(session.decoder->shape().vocabulary)));
  }
  session.decoder->set_phase(Phase::rollout);
  SamplerOptions options = session.sampling(derive_seed(seed, 0, Purpose::doctor));
  options.max_new_tokens = tokens;
  options.eos_ids.clear();
  sampled.rollout = sample(*session.decoder, sampled.prompts, options);
  for (std::size_t r = 0; r < sampled.rollout.responses.size(); ++r) sampled.scores.push_back(static_cast<double>(r % 2));
  return sampled;
}

// Sums of an activation quantizer's input and error, over all of its calls.
struct ErrorSums {
  double x2 = 0, error2 = 0, non_zero = 0, dead = 0;
};

// What went into the quantizers and what came out, per module.
class QuantizerSums {
 public:
  explicit QuantizerSums(Decoder& decoder) : decoder_(decoder) {
    decoder_.set_observer([this](const std::string& module, const at::Tensor& x, const at::Tensor& xq) {
      const at::NoGradGuard inner;
      const auto exact = x.detach().to(at::kDouble), rounded = xq.detach().to(at::kDouble);
      auto& sum = sums_[module];
      sum.x2 += exact.square().sum().item<double>();
      sum.error2 += (rounded - exact).square().sum().item<double>();
      const auto alive = exact != 0;
      sum.non_zero += alive.sum().item<double>();
      sum.dead += alive.logical_and(rounded == 0).sum().item<double>();
    });
  }
  ~QuantizerSums() { decoder_.set_observer({}); }
  QuantizerSums(const QuantizerSums&) = delete;
  QuantizerSums& operator=(const QuantizerSums&) = delete;

  void report(Measurements& result) const {
    for (const auto& module : result.report.modules) {
      ModuleError error{module.name, module.weight ? module.weight_sqnr_db : 0.0};
      const auto found = sums_.find(module.name);
      if (module.activation && found == sums_.end()) result.never_ran.push_back(module.name);
      if (found != sums_.end() && found->second.x2 > 0) {
        const auto& sum = found->second;
        error.activation = true;
        error.activation_sqnr_db = 10 * std::log10(sum.x2 / sum.error2);
        error.dead_share = sum.non_zero > 0 ? sum.dead / sum.non_zero : 0;
        result.rounded_again += sum.error2 == 0;
      }
      result.errors.push_back(error);
    }
  }

 private:
  Decoder& decoder_;
  std::map<std::string, ErrorSums> sums_;
};

void measure_errors_and_gap(Session& session, const Sampled& sampled, Measurements& result) {
  const at::NoGradGuard no_grad;
  auto& decoder = *session.decoder;
  const auto& config = session.config;
  const auto forward = [&](Phase phase) {
    decoder.set_phase(phase);
    return token_logprobs(decoder, sampled.prompts, sampled.rollout.responses, config.rollout.samples_per_prompt,
                          config.rollout.temperature);
  };
  TokenLogprobs trained, sampler;  // the same batch in both phases
  {
    const QuantizerSums sums(decoder);
    trained = forward(Phase::training);
    sampler = config.quant.format != "none" && config.quant.apply_during != "both" ? forward(Phase::rollout) : trained;
    sums.report(result);
  }
  const auto t = trained.logprobs.to(at::kCPU).contiguous(), s = sampler.logprobs.to(at::kCPU).contiguous();
  const auto in_training = t.accessor<float, 2>(), in_sampling = s.accessor<float, 2>();
  for (std::size_t r = 0; r < sampled.rollout.logprobs.size(); ++r)
    for (std::size_t i = 0; i < sampled.rollout.logprobs[r].size(); ++i) {
      const double now = in_training[static_cast<std::int64_t>(r)][static_cast<std::int64_t>(i)];
      const double same_batch = in_sampling[static_cast<std::int64_t>(r)][static_cast<std::int64_t>(i)];
      const double drawn = sampled.rollout.logprobs[r][i], d = now - drawn;
      result.gap_mean += std::abs(d);
      result.gap_max = std::max(result.gap_max, std::abs(d));
      result.gap_k3 += std::exp(std::clamp(d, -20.0, 20.0)) - 1 - std::clamp(d, -20.0, 20.0);
      result.gap_phase += std::abs(now - same_batch);
      result.gap_batch += std::abs(same_batch - drawn);
      ++result.tokens;
    }
  const auto tokens = static_cast<double>(std::max<std::int64_t>(result.tokens, 1));
  for (double* mean : {&result.gap_mean, &result.gap_k3, &result.gap_phase, &result.gap_batch}) *mean /= tokens;
}

// Prompts and their first responses, a thousand tokens or so, through all layers with and without quantizers.
void measure_layers(Session& session, const Sampled& sampled, Measurements& result) {
  const auto& config = session.config;
  if (result.report.modules.empty() || !session.decoder->has_unquantized_weights()) return;
  const at::NoGradGuard no_grad;
  auto& decoder = *session.decoder;
  std::vector<std::vector<std::int32_t>> rows;
  std::size_t tokens = 0;
  for (std::size_t p = 0; p < sampled.prompts.size() && tokens < 1024; ++p) {
    rows.push_back(sampled.prompts[p]);
    const auto& response = sampled.rollout.responses[p * static_cast<std::size_t>(config.rollout.samples_per_prompt)];
    rows.back().insert(rows.back().end(), response.begin(), response.end());
    if (rows.back().size() > 1024) rows.back().resize(1024);
    tokens += rows.back().size();
  }
  std::vector<at::Tensor> exact;
  decoder.set_layer_observer([&](std::int64_t, const at::Tensor& hidden) { exact.push_back(hidden.detach()); });
  decoder.set_phase(Phase::off);
  decoder.prefill(rows_of(rows));
  decoder.set_layer_observer([&](std::int64_t layer, const at::Tensor& hidden) {
    const auto reference = exact[static_cast<std::size_t>(layer)].to(at::kDouble);
    const double noise = (hidden.detach().to(at::kDouble) - reference).square().sum().item<double>();
    result.layers.push_back({layer, 10 * std::log10(reference.square().sum().item<double>() / noise)});
  });
  decoder.set_phase(config.quant.apply_during == "rollout" ? Phase::rollout : Phase::training);
  decoder.prefill(rows_of(rows));
  decoder.set_layer_observer({});
}

void note_left_out(Session& session, Measurements& result) {
  if (result.report.modules.empty()) return;
  std::set<std::string> quantized;
  for (const auto& module : result.report.modules) quantized.insert(module.projection);
  for (const std::string& projection : session.decoder->projections())
    if (!quantized.contains(projection)) result.left_out.push_back(projection);
}

Measurements begin(const Session& session) {
  Measurements result;
  result.config = session.config;
  result.report = session.report;
  result.trained_quant = session.trained_quant();
  result.evaluated_quant = session.evaluated_quant();
  return result;
}

template <class Sample>
Measurements measured(Session& session, Measurements result, Sample sample) {
  const auto started = std::chrono::steady_clock::now();
  const Phase before = session.decoder->phase();
  const Sampled sampled = sample(result);
  note_left_out(session, result);
  measure_errors_and_gap(session, sampled, result);
  measure_layers(session, sampled, result);
  measure_gradients(session, sampled, result);
  measure_updates(session, sampled, result);
  session.decoder->set_phase(before);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  result.peak_memory_gb = peak_memory_gb();
  return result;
}

}  // namespace

Measurements measure(Session& session, std::int64_t prompts) {
  return measured(session, begin(session), [&](Measurements& result) {
    return sample_groups(session, std::min(prompts, session.config.grpo.train_batch_size), result);
  });
}

Measurements measure_random(Session& session) {
  session.config.rollout.samples_per_prompt = 2;
  Measurements result = begin(session);
  result.random_weights = true;
  return measured(session, std::move(result), [&](Measurements&) { return sample_random(session); });
}

}  // namespace assay::train
