// Word problems in plain English with one or two operations, in GSM8K's form.
//
//   question  Tom has 12 apples. Tom buys 7 more and gives away 5. How many apples are left?
//   answer    12+7=19 apples.\n19-5=14 apples.\n#### 14
//
// A problem's topic is the thing it counts. Everything is drawn from CounterRandom: the same on every machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/tasks/random.h"

namespace assay::train::tasks {

struct Problem {
  std::string question;
  std::string steps;         // each step a line that ends in a newline
  std::int64_t result = 0;   // never negative
  int operations = 0;        // 1 or 2
  std::string kind;          // buy-give, bags-find, …
  std::size_t topic = 0;     // index into the topics

  std::string answer() const;  // steps, then "#### result"
};

// Draws kind, phrasing, names and numbers; `topics` are the plural nouns to choose from (at least one).
Problem draw_problem(const std::vector<std::string>& topics, CounterRandom& random);

// Names of all kinds, in the order they are drawn by.
std::vector<std::string> problem_kinds();

struct ProblemSets {
  std::vector<Problem> train, test;
};

// Questions are distinct within and across the two sets: test problem i is the i-th new question of its stream, and a
// training question that is in the test set is passed over. `operations` 1 or 2: only problems with that many; 0: all.
// Throws std::runtime_error when the templates do not hold that many different questions.
ProblemSets draw_problem_sets(const std::vector<std::string>& topics, std::uint64_t seed, std::int64_t train,
                              std::int64_t test, int operations = 0);

// GSM8K's JSON lines: {"question": …, "answer": …}, in order, UTF-8, one line a problem.
std::string problems_jsonl(const std::vector<Problem>& problems);

}  // namespace assay::train::tasks
