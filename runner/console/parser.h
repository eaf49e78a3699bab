// Metrics out of the console of somebody else's trainer, line by line (trainer.metrics = "verl", "trl", "regex").
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runner/console/verl.h"

namespace assay::console {

// Keeps what one stream of lines needs: a step that a later line builds on.
class LineParser {
 public:
  virtual ~LineParser() = default;
  // One line without its newline; `whole` as in parse_verl_line(). Nothing when it holds no metrics.
  virtual std::optional<StepLine> line(std::string_view text, bool whole) = 0;
};

// `regex` is used by "regex" only. Throws std::runtime_error with one sentence when the pattern cannot be used
// (regex_fault()), std::logic_error for a kind that is none of the three.
std::unique_ptr<LineParser> make_parser(const std::string& kind, const std::string& regex);

// trl and transformers print a Python dict per log: {'loss': 0.1, 'grad_norm': 1.2, 'learning_rate': 1e-05, 'epoch': 0.01};
// newer versions put the numbers in quotes. Where the dict has no 'step' or 'global_step', the n-th one with a 'loss' is
// step n (which it is with logging_steps=1), and dicts without one (evaluations, the summary) belong to the step before.
// Exposed for tests: the pairs of the first dict of a line; empty when there is none whose keys are all quoted.
std::vector<Point> parse_trl_dict(std::string_view line);

// What is wrong with a trainer.metrics_regex; empty: nothing. It needs either the groups `key` and `value` (then it may
// match several times in a line) or one group per key, in whose name __ stands for /; `step` is optional: without it
// each matching line is the next step. Matching is limited; a pattern that backtracks without end matches nothing.
std::string regex_fault(const std::string& pattern);

}  // namespace assay::console
