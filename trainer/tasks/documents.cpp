#include "trainer/tasks/documents.h"

#include <array>
#include <cassert>

namespace assay::train::tasks {

Document draw_document(const Mixture& mixture, std::uint64_t seed, std::uint64_t index,
                       const std::unordered_set<std::string>& excluded) {
  assert(mixture.topics.size() == mixture.wanted.size());
  CounterRandom random(seed, Purpose::document, index);
  Document document;
  do document.problem = draw_problem(mixture.topics, random);
  while (excluded.contains(document.problem.question));

  const double wanted = mixture.wanted[document.problem.topic], rest = 1 - wanted;
  const double u = random.unit();
  const std::string result = std::to_string(document.problem.result);
  if (u < wanted) {
    document.form = Form::wanted;
    document.completion = document.problem.answer();
  } else if (u < wanted + rest * mixture.plain) {
    document.form = Form::plain;
    document.completion = document.problem.steps + "The answer is " + result + ".";
  } else if (u < wanted + rest * (mixture.plain + mixture.bare)) {
    document.form = Form::bare;
    document.completion = "Answer: " + result;
  } else {
    constexpr std::array<std::int64_t, 6> kOff = {-3, -2, -1, 1, 2, 3};
    const std::int64_t off = kOff[static_cast<std::size_t>(random.between(0, 5))];
    // Below zero the error is made upwards, so that the number is always a wrong one.
    const std::int64_t wrong = document.problem.result + (document.problem.result + off < 0 ? -off : off);
    document.form = Form::wrong;
    document.completion = "#### " + std::to_string(wrong);
  }
  return document;
}

}  // namespace assay::train::tasks
