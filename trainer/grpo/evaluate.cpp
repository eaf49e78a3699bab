#include "trainer/grpo/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "trainer/grpo/parts.h"
#include "trainer/grpo/seeds.h"


namespace assay::train {
namespace {

// From each rank's problems to all of them, in file order, on every rank.
void gather(Ranks& ranks, std::vector<Answered>& problems) {
  if (ranks.size() == 1) return;
  PartWriter out;
  for (const Answered& answered : problems) {
    out.score(answered.score);
    out.text(answered.completion);
    out.number(answered.tokens);
    out.number(answered.truncated ? 1 : 0);
  }
  problems.clear();
  for (const std::string& part : ranks.gather(out.bytes())) {
    PartReader in(part);
    while (!in.at_end()) {
      Answered answered;
      answered.score = in.score();
      answered.completion = in.text();
      answered.tokens = in.number();
      answered.truncated = in.number() != 0;
      problems.push_back(std::move(answered));
    }
  }
}

}  // namespace

double Evaluation::accuracy() const {
  return problems.empty() ? 0 : static_cast<double>(correct()) / static_cast<double>(problems.size());
}

Metrics Evaluation::metrics() const {
  // Data is in GSM8K's form whatever it is about, and this is the key that verl's users look for.
  const std::string core = "val-core/openai/gsm8k/", aux = "val-aux/openai/gsm8k/";
  const auto n = static_cast<double>(problems.size());
  double tokens = 0, truncated = 0;
  for (const auto& problem : problems) {
    tokens += static_cast<double>(problem.tokens);
    truncated += problem.truncated;
  }
  Metrics metrics{{core + "acc/mean@1", accuracy()},
                  {aux + "format/mean@1", static_cast<double>(format_right) / n},
                  {aux + "arithmetic/mean@1", static_cast<double>(arithmetic_right) / n},
                  {aux + "response_length/mean", tokens / n},
                  {aux + "response_length/clip_ratio", truncated / n},
                  {"timing_s/testing", seconds}};
  for (std::size_t i = 0; i < outcomes.size(); ++i)
    metrics[aux + "outcome/" + name(static_cast<Outcome>(i))] = static_cast<double>(outcomes[i]);
  return metrics;
}

Evaluation evaluate(Session& session) {
  const auto started = std::chrono::steady_clock::now();
  Evaluation result;
  result.quant = session.evaluated_quant();
  result.trained_quant = session.trained_quant();
  const Phase before = session.decoder->phase();
  session.decoder->set_phase(session.config.eval.quant == "none" ? Phase::off : Phase::evaluation);
  session.decoder->set_rounding_seed(  // not the step's: the same model gives the same answers
      derive_seed(static_cast<std::uint64_t>(session.config.train.seed), 0, Purpose::sampled));

  const auto& prompts = session.test.prompts;
  const auto [first, behind] = session.ranks->share(static_cast<std::int64_t>(prompts.size()));
  const auto last = static_cast<std::size_t>(behind);
  std::string failed;
  const std::size_t chunk = session.config.eval.batch_size > 0 ? static_cast<std::size_t>(session.config.eval.batch_size)
                                                               : prompts.size();
  for (auto at = static_cast<std::size_t>(first); at < last; at += chunk) {
    const std::size_t end = std::min(at + chunk, last);
    const Rollout answers = sample(*session.decoder, {prompts.begin() + static_cast<std::ptrdiff_t>(at),
                                                      prompts.begin() + static_cast<std::ptrdiff_t>(end)},
                                   session.greedy());
    std::vector<ToScore> completions;
    for (std::size_t i = at; i < end; ++i)
      completions.push_back({session.completion(answers.responses[i - at]), &session.test.problems[i]});
    std::vector<Score> scores;
    try {
      scores = session.rewarder->score(completions, /*evaluation=*/true);
    } catch (const ScorerFailed& error) {
      if (session.ranks->size() == 1) throw;
      failed = error.what();
      break;
    }
    for (std::size_t i = at; i < end; ++i) {
      Answered answered;
      const auto& response = answers.responses[i - at];
      answered.completion = std::move(completions[i - at].completion);
      answered.tokens = static_cast<std::int64_t>(response.size());
      answered.truncated = answers.truncated[i - at];
      answered.score = std::move(scores[i - at]);
      result.problems.push_back(std::move(answered));
    }
  }
  for (const std::string& said : session.ranks->gather(failed))  // all ranks or none
    if (!said.empty()) throw ScorerFailed(said);
  gather(*session.ranks, result.problems);
  for (const Answered& answered : result.problems) {
    ++result.outcomes[static_cast<std::size_t>(answered.score.outcome)];
    result.format_right += answered.score.format_right;
    result.arithmetic_right += answered.score.arithmetic_right;
  }
  session.decoder->set_phase(before);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return result;
}

void write_evaluation(const std::filesystem::path& run_folder, std::int64_t step, const Evaluation& evaluation,
                      const std::string& data_sha256) {
  char stem[32];
  std::snprintf(stem, sizeof stem, "step-%06lld", static_cast<long long>(step));
  const auto folder = run_folder / "eval";
  std::filesystem::create_directories(folder);
  std::string lines;
  for (std::size_t i = 0; i < evaluation.problems.size(); ++i) {
    const auto& problem = evaluation.problems[i];
    lines += json_line({{"index", i},
                        {"outcome", name(problem.score.outcome)},
                        {"score", problem.score.score},
                        {"format_right", problem.score.format_right},
                        {"arithmetic_right", problem.score.arithmetic_right},
                        {"answer", problem.score.answer},
                        {"completion", problem.completion},
                        {"tokens", problem.tokens},
                        {"truncated", problem.truncated}}) +
             "\n";
  }
  support::write_file_atomically(folder / (std::string(stem) + ".jsonl"), lines);
  const nlohmann::json whole{{"step", step},
                             {"problems", evaluation.problems.size()},
                             {"correct", evaluation.correct()},
                             {"accuracy", evaluation.accuracy()},
                             {"format_right", evaluation.format_right},
                             {"arithmetic_right", evaluation.arithmetic_right},
                             {"quant", evaluation.quant},
                             {"trained_quant", evaluation.trained_quant},
                             {"data_sha256", data_sha256}};
  support::write_file_atomically(folder / (std::string(stem) + ".json"), whole.dump() + "\n");
}

std::string summary(const Evaluation& evaluation) {
  char text[512];
  std::snprintf(text, sizeof text, "%lld of %zu right (%.1f %%), format %lld, arithmetic %lld, under %s",
                static_cast<long long>(evaluation.correct()), evaluation.problems.size(), 100 * evaluation.accuracy(),
                static_cast<long long>(evaluation.format_right), static_cast<long long>(evaluation.arithmetic_right),
                evaluation.quant.c_str());
  return text;
}

}  // namespace assay::train
