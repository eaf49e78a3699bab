#include "trainer/tasks/problems.h"

#include <array>
#include <cassert>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <unordered_set>

namespace assay::train::tasks {
namespace {

using Numbers = std::array<std::int64_t, 3>;  // a, b, c of the template

// `left op right`; an operand is a number of the template ('a'..'c') or the first step's result ('r').
struct Step {
  char left, op, right;
};

// In the texts {n} and {m} are two different names, {o} the topic, {a} {b} {c} the numbers.
struct Kind {
  std::string_view name;
  Numbers (*draw)(CounterRandom&);
  std::vector<Step> steps;
  std::vector<std::string_view> texts;
};

constexpr std::array<std::string_view, 8> kNames = {"Tom", "Ann", "Sam", "Mia", "Leo", "Eva", "Ben", "Zoe"};

// Ranges: single numbers 2..20, factors 2..9, so that no result passes 101 and none is negative.
Numbers add_then_subtract(CounterRandom& r) {
  const auto a = r.between(2, 20), b = r.between(2, 20);
  return {a, b, r.between(2, a + b < 9 ? a + b : 9)};
}
Numbers multiply_then_add(CounterRandom& r) { return {r.between(2, 9), r.between(2, 9), r.between(2, 20)}; }
Numbers multiply_then_subtract(CounterRandom& r) {
  const auto a = r.between(2, 9), b = r.between(2, 9);
  return {a, b, r.between(2, a * b < 20 ? a * b : 20)};
}
Numbers subtract_then_add(CounterRandom& r) {
  const auto a = r.between(2, 20);
  return {a, r.between(2, a < 9 ? a : 9), r.between(2, 20)};
}
Numbers add_twice(CounterRandom& r) { return {r.between(2, 20), r.between(2, 20), 0}; }
Numbers add_then_divide(CounterRandom& r) {
  const auto friends = r.between(2, 6), share = r.between(2, 9), total = friends * share;
  const auto first = r.between(2, total - 2);
  return {first, total - first, friends};
}
Numbers add_once(CounterRandom& r) { return {r.between(2, 20), r.between(2, 20), 0}; }
Numbers subtract_once(CounterRandom& r) {
  const auto a = r.between(2, 20);
  return {a, r.between(2, a), 0};
}
Numbers multiply_once(CounterRandom& r) { return {r.between(2, 9), r.between(2, 9), 0}; }
Numbers divide_once(CounterRandom& r) {
  const auto friends = r.between(2, 6);
  return {friends * r.between(2, 9), friends, 0};
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"buy-give", add_then_subtract, {{'a', '+', 'b'}, {'r', '-', 'c'}},
       {"{n} has {a} {o}. {n} buys {b} more and gives away {c}. How many {o} are left?",
        "{n} had {a} {o}, got {b} more and then lost {c}. How many {o} does {n} have now?"}},
      {"bags-find", multiply_then_add, {{'a', '*', 'b'}, {'r', '+', 'c'}},
       {"{n} has {a} bags with {b} {o} each. {n} finds {c} more. How many {o} in total?",
        "There are {a} boxes with {b} {o} each. {n} adds {c} more. How many {o} are there now?"}},
      {"boxes-sell", multiply_then_subtract, {{'a', '*', 'b'}, {'r', '-', 'c'}},
       {"{n} fills {a} boxes with {b} {o} each and sells {c}. How many {o} are left?",
        "{n} had {a} bags with {b} {o} each and lost {c}. How many {o} does {n} have now?"}},
      {"give-find", subtract_then_add, {{'a', '-', 'b'}, {'r', '+', 'c'}},
       {"{n} has {a} {o}. {n} gives away {b} and then finds {c}. How many {o} does {n} have now?",
        "There were {a} {o}. {n} sells {b} and adds {c} more. How many {o} are there now?"}},
      {"more-than", add_twice, {{'a', '+', 'b'}, {'a', '+', 'r'}},
       {"{n} has {a} {o}. {m} has {b} more. How many {o} do they have in total?",
        "{m} has {b} more {o} than {n}. {n} has {a}. How many {o} are there in total?"}},
      {"find-share", add_then_divide, {{'a', '+', 'b'}, {'r', '/', 'c'}},
       {"{n} has {a} {o}, finds {b} more and shares them with {c} friends. How many {o} does each get?",
        "{n} had {a} {o} and {m} had {b}. They fill {c} bags. How many {o} are in each?"}},
      {"buy", add_once, {{'a', '+', 'b'}},
       {"{n} has {a} {o} and buys {b} more. How many {o} does {n} have now?",
        "{n} has {a} {o} and {m} has {b}. How many {o} in total?"}},
      {"give", subtract_once, {{'a', '-', 'b'}},
       {"{n} has {a} {o} and gives away {b}. How many {o} are left?",
        "There were {a} {o}. {n} sells {b}. How many {o} are left?"}},
      {"boxes", multiply_once, {{'a', '*', 'b'}},
       {"{n} fills {a} boxes with {b} {o} each. How many {o} in total?",
        "There are {a} bags with {b} {o} each. How many {o} are there?"}},
      {"share", divide_once, {{'a', '/', 'b'}},
       {"{n} shares {a} {o} with {b} friends. How many {o} does each get?",
        "{n} fills {b} bags with {a} {o}. How many {o} are in each?"}},
  };
  return all;
}

std::string fill(std::string_view text, std::string_view n, std::string_view m, std::string_view topic,
                 const Numbers& numbers) {
  std::string filled;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '{') {
      filled += text[i];
      continue;
    }
    assert(i + 2 < text.size() && text[i + 2] == '}');
    switch (text[i + 1]) {
      case 'n': filled += n; break;
      case 'm': filled += m; break;
      case 'o': filled += topic; break;
      default: filled += std::to_string(numbers.at(static_cast<std::size_t>(text[i + 1] - 'a')));
    }
    i += 2;
  }
  return filled;
}

std::int64_t apply(std::int64_t left, char op, std::int64_t right) {
  switch (op) {
    case '+': return left + right;
    case '-': return left - right;
    case '*': return left * right;
    default:
      assert(op == '/' && right != 0 && left % right == 0);
      return left / right;
  }
}

template <class Accept>
std::vector<Problem> draw_distinct(const std::vector<std::string>& topics, std::uint64_t seed, Purpose purpose,
                                   std::int64_t count, Accept accept) {
  std::vector<Problem> problems;
  problems.reserve(static_cast<std::size_t>(count));
  // A set of templates that is nearly exhausted would draw almost for ever.
  constexpr int kMostMisses = 1000;
  int misses = 0;
  for (std::uint64_t i = 0; std::ssize(problems) < count; ++i) {
    if (misses == kMostMisses)
      throw std::runtime_error("the templates do not hold " + std::to_string(count) +
                               " different questions for these topics: ask for fewer problems or give more topics");
    CounterRandom random(seed, purpose, i);
    Problem problem = draw_problem(topics, random);
    const bool fresh = accept(problem);
    misses = fresh ? 0 : misses + 1;
    if (fresh) problems.push_back(std::move(problem));
  }
  return problems;
}

}  // namespace

std::string Problem::answer() const { return steps + "#### " + std::to_string(result); }

std::vector<std::string> problem_kinds() {
  std::vector<std::string> names;
  for (const Kind& kind : kinds()) names.emplace_back(kind.name);
  return names;
}

Problem draw_problem(const std::vector<std::string>& topics, CounterRandom& random) {
  assert(!topics.empty());
  const auto pick = [&random](const auto& list) -> const auto& {
    return list[static_cast<std::size_t>(random.between(0, std::ssize(list) - 1))];
  };
  const Kind& kind = pick(kinds());
  const std::string_view text = pick(kind.texts);
  const auto first = random.between(0, std::ssize(kNames) - 1);
  const auto second = (first + random.between(1, std::ssize(kNames) - 1)) % std::ssize(kNames);
  Problem problem;
  problem.topic = static_cast<std::size_t>(random.between(0, std::ssize(topics) - 1));
  problem.kind = kind.name;
  problem.operations = static_cast<int>(kind.steps.size());
  const Numbers numbers = kind.draw(random);
  const std::string& topic = topics[problem.topic];
  problem.question = fill(text, kNames[static_cast<std::size_t>(first)], kNames[static_cast<std::size_t>(second)],
                          topic, numbers);
  for (const Step& step : kind.steps) {
    const auto value = [&](char operand) {
      return operand == 'r' ? problem.result : numbers.at(static_cast<std::size_t>(operand - 'a'));
    };
    const std::int64_t left = value(step.left), right = value(step.right), result = apply(left, step.op, right);
    problem.steps += std::to_string(left) + step.op + std::to_string(right) + "=" + std::to_string(result) + " " +
                     topic + ".\n";
    problem.result = result;
  }
  return problem;
}

ProblemSets draw_problem_sets(const std::vector<std::string>& topics, std::uint64_t seed, std::int64_t train,
                              std::int64_t test, int operations) {
  std::unordered_set<std::string> seen;
  const auto wanted = [&seen, operations](const Problem& problem) {
    return (operations == 0 || problem.operations == operations) && seen.insert(problem.question).second;
  };
  ProblemSets sets;
  sets.test = draw_distinct(topics, seed, Purpose::test_problem, test, wanted);
  sets.train = draw_distinct(topics, seed, Purpose::train_problem, train, wanted);
  return sets;
}

std::string problems_jsonl(const std::vector<Problem>& problems) {
  std::string lines;
  for (const Problem& problem : problems) {
    const nlohmann::ordered_json line = {{"question", problem.question}, {"answer", problem.answer()}};
    lines += line.dump();
    lines += '\n';
  }
  return lines;
}

}  // namespace assay::train::tasks
