// Pretraining documents: a problem and what a text about it might say after it.
//
// The base model must know arithmetic well and the wanted form (steps, then "#### result") to a degree that differs
// from topic to topic, so that reinforcement learning has something to learn, topic after topic, instead of one flip of
// the format. So a document is, by shares that the config gives,
//   wanted   steps, then "#### result"; the share is the topic's own
//   plain    steps, then "The answer is result."
//   bare     "Answer: result" without steps
//   wrong    "#### number" without steps, off by up to three
// where the last three divide what the topic's share leaves.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "trainer/tasks/problems.h"

namespace assay::train::tasks {

enum class Form : std::uint8_t { wanted, plain, bare, wrong };

struct Document {
  Problem problem;
  Form form = Form::wanted;
  std::string completion;
};

struct Mixture {
  std::vector<std::string> topics;
  std::vector<double> wanted;     // share of the wanted form, a topic each, in [0, 1]
  double plain = 0, bare = 0;     // of the rest; what they leave is wrong
};

// Document i of a seed; questions in `excluded` (the test set) never occur.
Document draw_document(const Mixture& mixture, std::uint64_t seed, std::uint64_t index,
                       const std::unordered_set<std::string>& excluded);

}  // namespace assay::train::tasks
