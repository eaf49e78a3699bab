#include "trainer/grpo/rollout_batch.h"

#include "trainer/grpo/advantage.h"
#include "trainer/grpo/parts.h"
#include "trainer/grpo/seeds.h"
#include "trainer/profile/profile.h"

namespace assay::train {
namespace {

struct Scored {  // per row
  Rollout rollout;
  std::vector<std::string> completions;
  std::vector<Score> scores;
};

// Rows of this rank's share of the prompts, and then of all. A row that cannot be sampled ends all ranks alike.
Scored sample_and_score(Session& session, const std::vector<std::size_t>& problems,
                        const std::vector<std::vector<std::int32_t>>& prompts, std::uint64_t seed) {
  Ranks& ranks = *session.ranks;
  const std::int64_t group = session.config.rollout.samples_per_prompt;
  const auto [first, last] = ranks.share(static_cast<std::int64_t>(prompts.size()));
  SamplerOptions options = session.sampling(seed);
  options.first_row = first * group;
  Scored own;
  std::string wrong;
  try {
    own.rollout = sample(*session.decoder, {prompts.begin() + first, prompts.begin() + last}, options);
  } catch (const NonFiniteLogits& error) {
    if (ranks.size() == 1) throw;
    wrong = error.what();
  }
  const Span span("scoring");
  std::vector<ToScore> answers;
  for (std::size_t row = 0; row < own.rollout.responses.size(); ++row) {
    const auto problem = problems[static_cast<std::size_t>(first) + row / static_cast<std::size_t>(group)];
    answers.push_back({session.completion(own.rollout.responses[row]), &session.train.problems[problem]});
  }
  std::string failed;
  try {
    own.scores = session.rewarder->score(answers, /*evaluation=*/false);
  } catch (const ScorerFailed& error) {
    if (ranks.size() == 1) throw;
    failed = error.what();
  }
  for (ToScore& answer : answers) own.completions.push_back(std::move(answer.completion));
  if (ranks.size() == 1) return own;

  PartWriter out;
  out.text(wrong);
  out.text(failed);
  for (std::size_t row = 0; row < own.scores.size(); ++row) {
    out.values(own.rollout.responses[row]);
    out.values(own.rollout.logprobs[row]);
    out.number(own.rollout.truncated[row] ? 1 : 0);
    out.text(own.completions[row]);
    out.score(own.scores[row]);
  }
  Scored all;
  for (const std::string& part : ranks.gather(out.bytes())) {
    PartReader in(part);
    if (const std::string said = in.text(); !said.empty()) throw NonFiniteLogits(said);
    if (const std::string said = in.text(); !said.empty()) throw ScorerFailed(said);
    while (!in.at_end()) {
      all.rollout.responses.push_back(in.values<std::int32_t>());
      all.rollout.logprobs.push_back(in.values<float>());
      all.rollout.truncated.push_back(in.number() != 0);
      all.completions.push_back(in.text());
      all.scores.push_back(in.score());
    }
  }
  return all;
}

}  // namespace

Batch collect_batch(Session& session, DataOrder& order, std::int64_t step) {
  const auto& grpo = session.config.grpo;
  const auto& rollout = session.config.rollout;
  const std::int64_t group = rollout.samples_per_prompt;
  const std::int64_t draw = prompts_per_draw(grpo);
  const std::int64_t draws = grpo.filter_groups ? grpo.max_num_gen_batches : 1;

  Batch batch;
  if (session.noise) {
    session.noise->begin_step(*session.decoder, step, session.config.train.steps);
    batch.noise_sigma = session.noise->sigma(step, session.config.train.steps);
  }
  session.decoder->set_phase(Phase::rollout);
  while (batch.generation_batches < draws && batch.prompt_count() < grpo.train_batch_size) {
    const auto problems = order.next(draw);
    std::vector<std::vector<std::int32_t>> prompts;
    for (const auto problem : problems) prompts.push_back(session.train.prompts[problem]);
    const auto index = (static_cast<std::uint64_t>(step) << 20) + static_cast<std::uint64_t>(batch.generation_batches);
    const auto seed = derive_seed(static_cast<std::uint64_t>(session.config.train.seed), index, Purpose::rollout);
    session.decoder->set_rounding_seed(derive_seed(static_cast<std::uint64_t>(session.config.train.seed), index, Purpose::sampled));
    Scored all = sample_and_score(session, problems, prompts, seed);
    Rollout& sampled = all.rollout;
    ++batch.generation_batches;

    for (std::int64_t p = 0; p < draw; ++p) {
      std::vector<double> values;
      for (std::int64_t row = p * group; row < (p + 1) * group; ++row) {
        values.push_back(all.scores[row].score);
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
        batch.completions.push_back(std::move(all.completions[row]));
        batch.scores.push_back(std::move(all.scores[row]));
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
