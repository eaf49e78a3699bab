#include "trainer/grpo/rollout_batch.h"

#include "trainer/grpo/advantage.h"
#include "trainer/grpo/seeds.h"
#include "trainer/grpo/stop.h"

namespace assay::train {

Batch collect_batch(Session& session, DataOrder& order, std::int64_t step) {
  const auto& grpo = session.config.grpo;
  const auto& rollout = session.config.rollout;
  const std::int64_t group = rollout.samples_per_prompt;
  const std::int64_t draw =
      grpo.filter_groups && grpo.gen_batch_size > 0 ? grpo.gen_batch_size : grpo.train_batch_size;
  const std::int64_t draws = grpo.filter_groups ? grpo.max_num_gen_batches : 1;

  Batch batch;
  session.decoder->set_phase(Phase::rollout);
  while (batch.generation_batches < draws && batch.prompt_count() < grpo.train_batch_size && !stop_requested()) {
    const auto problems = order.next(draw);
    std::vector<std::vector<std::int32_t>> prompts;
    for (const auto problem : problems) prompts.push_back(session.train.prompts[problem]);
    const auto index = (static_cast<std::uint64_t>(step) << 20) + static_cast<std::uint64_t>(batch.generation_batches);
    const auto seed = derive_seed(static_cast<std::uint64_t>(session.config.train.seed), index, Purpose::rollout);
    Rollout sampled = sample(*session.decoder, prompts, session.sampling(seed));
    ++batch.generation_batches;

    for (std::int64_t p = 0; p < draw; ++p) {
      std::vector<std::string> completions;
      std::vector<Score> scores;
      std::vector<double> values;
      for (std::int64_t row = p * group; row < (p + 1) * group; ++row) {
        completions.push_back(session.completion(sampled.responses[row]));
        scores.push_back(score(session.scorer, completions.back(), session.train.problems[problems[p]].gold));
        values.push_back(scores.back().score);
        batch.sampled_score_sum += values.back();
      }
      ++batch.groups_sampled;
      const bool spread = has_spread(values, group, 0);
      batch.groups_with_spread += spread;
      if ((grpo.filter_groups && !spread) || batch.prompt_count() == grpo.train_batch_size) continue;
      batch.problem.push_back(problems[p]);
      batch.prompts.push_back(prompts[p]);
      for (std::int64_t s = 0; s < group; ++s) {
        const std::int64_t row = p * group + s;
        const auto length = static_cast<std::int64_t>(sampled.responses[row].size());
        batch.rewards.push_back(values[s] + overlong_penalty(length, rollout.max_response_length, grpo.overlong_buffer,
                                                             grpo.overlong_factor));
        batch.completions.push_back(std::move(completions[s]));
        batch.scores.push_back(std::move(scores[s]));
        batch.rollout.responses.push_back(std::move(sampled.responses[row]));
        batch.rollout.logprobs.push_back(std::move(sampled.logprobs[row]));
        batch.rollout.truncated.push_back(sampled.truncated[row]);
      }
    }
  }
  batch.short_of_groups = batch.prompt_count() < grpo.train_batch_size;
  batch.advantages = group_advantages(batch.rewards, group, parse_advantage(grpo.advantage));
  return batch;
}

}  // namespace assay::train
