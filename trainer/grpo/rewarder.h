// Who says what a completion is worth: one of the two built-in scorers, or any program.
//
// The program (reward.scorer = "command") is started for every batch of completions. It reads one JSON object a line,
//   {"index": 0, "completion": "…", "question": "…", "answer": "72", "evaluation": false}
// to the end of its input, and writes one line for each, in the same order: a number, or an object
//   {"score": 0.5, "outcome": "correct", "answer": "72"}
// of which only the score must be there. Without an outcome it is correct from a score of 1 on, and wrong below. A line
// that is neither, or whose score is not finite, makes that completion a scorer_error of score 0. Ending other than with
// exit code 0, taking longer than reward.timeout, another number of lines than completions, and not one good line are
// failures of the program, and of the run.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/grpo/data.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/reward.h"

namespace assay::train {

// The scorer program failed as a whole; one sentence.
struct ScorerFailed : BadInput {
  using BadInput::BadInput;
};

struct ToScore {
  std::string completion;
  const Problem* problem = nullptr;
};

class Rewarder {
 public:
  // A program with a slash in its name is taken relative to `folder`, which is also where it runs; one without is looked
  // for in PATH. Throws BadInput when there is no such program.
  Rewarder(const spec::RewardConfig& config, const std::filesystem::path& folder);

  // One score for each, in order. Throws ScorerFailed, and Stopped when a stop signal came while the program ran; it has
  // been ended. Cost of a program: one process a call.
  std::vector<Score> score(const std::vector<ToScore>& batch, bool evaluation) const;

 private:
  std::vector<Score> parse(const std::string& output, std::size_t count) const;
  spec::RewardConfig config_;
  std::optional<Scorer> built_in_;
  std::filesystem::path folder_;
};

}  // namespace assay::train
