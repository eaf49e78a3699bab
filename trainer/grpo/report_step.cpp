#include "trainer/grpo/report_step.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "trainer/grpo/memory.h"

namespace assay::train {
namespace {

void put_spread(Metrics& metrics, const std::string& key, const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  metrics[key + "/mean"] = sum / static_cast<double>(values.size());
  metrics[key + "/max"] = *std::max_element(values.begin(), values.end());
  metrics[key + "/min"] = *std::min_element(values.begin(), values.end());
}

double get(const Metrics& metrics, const char* key) {
  const auto found = metrics.find(key);
  return found == metrics.end() ? 0 : found->second;
}

}  // namespace

Metrics batch_metrics(const Batch& batch, std::int64_t max_response_length, const StepTimes& times) {
  Metrics metrics{{"rollout/generation_batches", static_cast<double>(batch.generation_batches)},
                  {"rollout/groups_sampled", static_cast<double>(batch.groups_sampled)},
                  {"rollout/groups_with_spread", static_cast<double>(batch.groups_with_spread)},
                  {"rollout/groups_trained", static_cast<double>(batch.prompt_count())},
                  {"timing_s/gen", times.generation},
                  {"timing_s/update_actor", times.update},
                  {"timing_s/step", times.step},
                  {"perf/max_memory_rss_gb", peak_memory_gb()}};
  if (batch.noise_sigma >= 0) metrics["noise/sigma"] = batch.noise_sigma;
  const auto rows = batch.scores.size();
  if (batch.groups_sampled == 0 || rows == 0) return metrics;
  const auto n = static_cast<double>(rows);
  const double group = n / static_cast<double>(batch.prompt_count());
  metrics["rollout/score/mean"] = batch.sampled_score_sum / (static_cast<double>(batch.groups_sampled) * group);

  std::vector<double> scores, lengths, prompts;
  std::array<double, 4> outcomes{};
  double format = 0, arithmetic = 0, tokens = 0, truncated = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const Score& score = batch.scores[r];
    scores.push_back(score.score);
    lengths.push_back(static_cast<double>(batch.rollout.responses[r].size()));
    prompts.push_back(static_cast<double>(batch.prompts[r * batch.prompts.size() / rows].size()));
    tokens += lengths.back() + prompts.back();
    outcomes[static_cast<std::size_t>(score.outcome)] += 1;
    format += score.format_right;
    arithmetic += score.arithmetic_right;
    truncated += batch.rollout.truncated[r];
  }
  put_spread(metrics, "critic/score", scores);
  put_spread(metrics, "critic/rewards", batch.rewards);
  put_spread(metrics, "critic/advantages", batch.advantages);
  put_spread(metrics, "response_length", lengths);
  put_spread(metrics, "prompt_length", prompts);
  // Cut off by max_response_length; one that ends there of itself is not.
  metrics["response_length/clip_ratio"] = truncated / n;
  metrics["response_length/limit"] = static_cast<double>(max_response_length);
  metrics["reward/format_right"] = format / n;
  metrics["reward/arithmetic_right"] = arithmetic / n;
  for (std::size_t i = 0; i < outcomes.size(); ++i)
    metrics[std::string("reward/outcome/") + name(static_cast<Outcome>(i))] = outcomes[i];
  metrics["perf/total_num_tokens"] = tokens;
  metrics["perf/throughput"] = tokens / times.step;
  return metrics;
}

void write_samples(const std::filesystem::path& run_folder, std::int64_t step, const Batch& batch) {
  if (batch.prompt_count() == 0) return;
  const std::size_t group = batch.scores.size() / batch.prompts.size();
  const std::size_t rows = std::min<std::size_t>(2, batch.prompts.size()) * group;
  char file[40];
  std::snprintf(file, sizeof file, "step-%06lld.jsonl", static_cast<long long>(step));
  std::string lines;
  for (std::size_t r = 0; r < rows; ++r)
    lines += json_line({{"prompt_index", batch.problem[r / group]},
                        {"sample", r % group},
                        {"completion", batch.completions[r]},
                        {"score", batch.scores[r].score},
                        {"outcome", name(batch.scores[r].outcome)},
                        {"advantage", batch.advantages[r]}}) +
             "\n";
  const auto folder = run_folder / "samples";
  std::filesystem::create_directories(folder);
  support::write_file_atomically(folder / file, lines);
}

std::string step_line(std::int64_t step, std::int64_t steps, const Metrics& metrics) {
  char text[256];
  std::snprintf(text, sizeof text,
                "step %lld of %lld: score %.3f, grad_norm %.3g, gradient in %.0f of %.0f adapter tensors, "
                "%.1f tokens a response, %.2f s",
                static_cast<long long>(step), static_cast<long long>(steps), get(metrics, "critic/score/mean"),
                get(metrics, "actor/grad_norm"), get(metrics, "actor/grad_tensors"),
                get(metrics, "actor/adapter_tensors"), get(metrics, "response_length/mean"), get(metrics, "timing_s/step"));
  return text;
}

}  // namespace assay::train
