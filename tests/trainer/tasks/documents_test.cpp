#include "trainer/tasks/documents.h"

#include <cmath>
#include <map>

#include "tests/catch.h"

using namespace assay::train::tasks;

TEST_CASE("documents follow the mixture") {
  const Mixture mixture{{"apples", "rings"}, {0.6, 0.02}, 0.45, 0.30};
  const int count = 40000;
  std::map<Form, double> seen[2];
  double topics[2] = {};
  for (std::uint64_t i = 0; i < count; ++i) {
    const Document document = draw_document(mixture, 1, i, {});
    const Problem& p = document.problem;
    ++seen[p.topic][document.form];
    ++topics[p.topic];
    const std::string result = std::to_string(p.result);
    switch (document.form) {
      case Form::wanted: CHECK(document.completion == p.answer()); break;
      case Form::plain: CHECK(document.completion == p.steps + "The answer is " + result + "."); break;
      case Form::bare: CHECK(document.completion == "Answer: " + result); break;
      case Form::wrong: {
        REQUIRE(document.completion.starts_with("#### "));
        const auto off = std::stoll(document.completion.substr(5)) - p.result;
        CHECK((off != 0 && std::abs(off) <= 3));
        CHECK(document.completion.find('-') == std::string::npos);
      }
    }
  }
  for (int topic = 0; topic < 2; ++topic) {
    const double wanted = mixture.wanted[static_cast<std::size_t>(topic)], rest = 1 - wanted;
    const std::map<Form, double> expected = {
        {Form::wanted, wanted}, {Form::plain, .45 * rest}, {Form::bare, .30 * rest}, {Form::wrong, .25 * rest}};
    for (const auto& [form, share] : expected) {
      const double sd = std::sqrt(share * (1 - share) / topics[topic]);
      CHECK(std::abs(seen[topic][form] / topics[topic] - share) < 5 * sd);
    }
  }
}

TEST_CASE("documents never hold a question of the test set") {
  const Mixture mixture{{"apples"}, {0.5}, 0.45, 0.30};
  std::unordered_set<std::string> excluded;
  std::vector<std::string> before;
  for (std::uint64_t i = 0; i < 200; ++i) {
    before.push_back(draw_document(mixture, 2, i, {}).problem.question);
    if (i % 2) excluded.insert(before.back());
  }
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::string question = draw_document(mixture, 2, i, excluded).problem.question;
    CHECK_FALSE(excluded.contains(question));
    if (!excluded.contains(before[i])) CHECK(question == before[i]);
  }
}
