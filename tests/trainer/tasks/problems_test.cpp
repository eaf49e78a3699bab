#include "trainer/tasks/problems.h"

#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "support/files.h"
#include "tests/catch.h"
#include "trainer/tasks/config.h"

using namespace assay::train::tasks;

namespace {
const std::vector<std::string> kTopics = {"apples", "books", "coins"};

TaskConfig shipped() { return TaskConfig::read(assay::test::source("experiments/e13/pretrain.toml")); }
}  // namespace

TEST_CASE("the generator is SplitMix64 by counter") {
  // The reference sequence of SplitMix64 seeded with 1234567 (https://prng.di.unimi.it/splitmix64.c), of which
  // mix() is the finalizer: state k is seed + k * G.
  std::uint64_t state = 1234567;
  const std::uint64_t expected[] = {6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull,
                                    4593380528125082431ull, 16408922859458223821ull};
  for (const std::uint64_t value : expected) CHECK(CounterRandom::mix(state += 0x9E3779B97F4A7C15ull) == value);
  // A stream's definition, written out.
  const std::uint64_t g = 0x9E3779B97F4A7C15ull;
  const auto mix = CounterRandom::mix;
  const std::uint64_t key = mix(mix(mix(7 + g) + 3 * g) + 11 * g);
  CounterRandom random(7, Purpose::document, 11);
  CHECK(random.bits() == mix(key + g));
  CHECK(random.bits() == mix(key + 2 * g));
}

TEST_CASE("between() covers its range evenly") {
  CounterRandom random(1, Purpose::document, 0);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts.at(static_cast<std::size_t>(random.between(-3, 3) + 3));
  for (const int count : counts) CHECK(std::abs(count - 10000) < 500);  // 5 standard deviations
  for (int i = 0; i < 1000; ++i) {
    const double u = random.unit();
    CHECK((u >= 0 && u < 1));
  }
}

TEST_CASE("every kind of problem is drawn, and its steps are right") {
  std::map<std::string, int> kinds;
  const std::regex step(R"((\d+)([-+*/])(\d+)=(\d+) ([a-z]+)\.\n)");
  for (std::uint64_t i = 0; i < 5000; ++i) {
    CounterRandom random(5, Purpose::train_problem, i);
    const Problem problem = draw_problem(kTopics, random);
    ++kinds[problem.kind];
    INFO(problem.question << "\n" << problem.answer());
    CHECK(problem.question.find('{') == std::string::npos);
    CHECK(problem.question.find(kTopics[problem.topic]) != std::string::npos);
    int operations = 0;
    std::int64_t last = -1;
    for (std::sregex_iterator it(problem.steps.begin(), problem.steps.end(), step), end; it != end; ++it) {
      const auto a = std::stoll((*it)[1]), b = std::stoll((*it)[3]), result = std::stoll((*it)[4]);
      const char op = (*it)[2].str()[0];
      CHECK(result == (op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b));
      if (op == '/') CHECK(a % b == 0);
      if (operations == 1) CHECK((a == last || b == last));  // the second step goes on from the first
      CHECK((*it)[5] == kTopics[problem.topic]);
      last = result;
      ++operations;
    }
    CHECK(operations == problem.operations);
    CHECK(last == problem.result);
    CHECK(problem.result >= 0);
    CHECK(problem.answer() == problem.steps + "#### " + std::to_string(problem.result));
  }
  const auto names = problem_kinds();
  CHECK(kinds.size() == names.size());
  for (const auto& name : names) CHECK(kinds[name] > 400);  // 500 expected
}

TEST_CASE("a problem's numbers are those of its question") {
  // Written by hand from the templates: what is asked for, and what the answer must then be.
  const std::vector<std::pair<std::regex, std::function<long(const std::smatch&)>>> rules = {
      {std::regex(R"(\w+ has (\d+) \w+ and buys (\d+) more\..*)"),
       [](const std::smatch& m) { return std::stol(m[1]) + std::stol(m[2]); }},
      {std::regex(R"(\w+ has (\d+) \w+\. \w+ buys (\d+) more and gives away (\d+)\..*)"),
       [](const std::smatch& m) { return std::stol(m[1]) + std::stol(m[2]) - std::stol(m[3]); }},
      {std::regex(R"(\w+ fills (\d+) boxes with (\d+) \w+ each and sells (\d+)\..*)"),
       [](const std::smatch& m) { return std::stol(m[1]) * std::stol(m[2]) - std::stol(m[3]); }},
      {std::regex(R"(\w+ has (\d+) \w+, finds (\d+) more and shares them with (\d+) friends\..*)"),
       [](const std::smatch& m) { return (std::stol(m[1]) + std::stol(m[2])) / std::stol(m[3]); }},
      {std::regex(R"(\w+ has (\d+) more \w+ than \w+\. \w+ has (\d+)\..*)"),
       [](const std::smatch& m) { return 2 * std::stol(m[2]) + std::stol(m[1]); }},
  };
  std::vector<int> seen(rules.size());
  for (std::uint64_t i = 0; i < 2000; ++i) {
    CounterRandom random(6, Purpose::train_problem, i);
    const Problem problem = draw_problem(kTopics, random);
    for (std::size_t r = 0; r < rules.size(); ++r) {
      std::smatch match;
      if (!std::regex_match(problem.question, match, rules[r].first)) continue;
      ++seen[r];
      INFO(problem.question);
      CHECK(problem.result == rules[r].second(match));
    }
  }
  for (const int count : seen) CHECK(count > 30);
}

TEST_CASE("questions are distinct, and the test set is disjoint from the training set") {
  const ProblemSets sets = draw_problem_sets(kTopics, 3, 2000, 500);
  std::set<std::string> all;
  for (const auto& p : sets.test) all.insert(p.question);
  for (const auto& p : sets.train) all.insert(p.question);
  CHECK(all.size() == 2500);
  // Asking for more problems keeps those there were.
  const ProblemSets more = draw_problem_sets(kTopics, 3, 2100, 500);
  CHECK(problems_jsonl(sets.train) == problems_jsonl({more.train.begin(), more.train.begin() + 2000}));
  CHECK(problems_jsonl(draw_problem_sets(kTopics, 4, 10, 10).train) !=
        problems_jsonl(draw_problem_sets(kTopics, 3, 10, 10).train));
  const ProblemSets one = draw_problem_sets(kTopics, 3, 200, 50, 1);
  CHECK(one.train.size() == 200);
  for (const auto& p : one.train) CHECK(p.operations == 1);
  CHECK_THROWS_WITH(draw_problem_sets({"apples"}, 3, 10, 1000000), Catch::Contains("different questions"));
}

TEST_CASE("the shipped data are what the generator gives") {
  const TaskConfig config = shipped();
  const ProblemSets sets = draw_problem_sets(config.mixture.topics, config.problems.seed, config.problems.train,
                                             config.problems.test);
  CHECK(sets.test.size() >= 1024);
  CHECK(sets.train.size() >= 6000);
  const std::string train = assay::support::read_file(assay::test::source("experiments/e13/data/train.jsonl"));
  const std::string test = assay::support::read_file(assay::test::source("experiments/e13/data/test.jsonl"));
  CHECK((problems_jsonl(sets.train) == train));
  CHECK((problems_jsonl(sets.test) == test));
  const ProblemSets one = draw_problem_sets(config.mixture.topics, config.problems.seed, 512, 128, 1);
  CHECK((problems_jsonl(one.train) ==
         assay::support::read_file(assay::test::source("experiments/smollm2-words/data/train.jsonl"))));
  CHECK((problems_jsonl(one.test) ==
         assay::support::read_file(assay::test::source("experiments/smollm2-words/data/test.jsonl"))));
  // GSM8K's form: the two keys in its order, the answer ending in the number.
  std::istringstream lines(test);
  const std::regex ending(R"([^]*\n#### \d+)");
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::ordered_json::parse(line);
    REQUIRE(json.size() == 2);
    CHECK(json.begin().key() == "question");
    CHECK(std::regex_match(json.at("answer").get<std::string>(), ending));
  }
}
