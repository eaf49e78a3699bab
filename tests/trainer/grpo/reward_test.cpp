#include "trainer/grpo/reward.h"

#include "tests/catch.h"

using namespace assay::train;

namespace {
Outcome verl(const std::string& completion, const std::string& gold) { return score(Scorer::verl, completion, gold).outcome; }
Outcome robust(const std::string& completion, const std::string& gold) {
  return score(Scorer::robust, completion, gold).outcome;
}
}  // namespace

TEST_CASE("verl's strict mode, its known traps included") {
  CHECK(verl("so 72.\n#### 72", "72") == Outcome::correct);
  CHECK(verl("#### 72.", "72") == Outcome::wrong);
  CHECK(verl("####72", "72") == Outcome::unparsable);
  CHECK(verl("#### $72", "72") == Outcome::unparsable);
  CHECK(verl("#### 1,234", "1234") == Outcome::correct);
  CHECK(verl("#### -5", "-5") == Outcome::correct);
  CHECK(verl("#### - 5", "-5") == Outcome::unparsable);
  CHECK(verl("#### 72.00", "72") == Outcome::wrong);
  CHECK(verl("##### 5", "5") == Outcome::correct);
  CHECK(verl("#### 5 #### 6", "6") == Outcome::correct);
  CHECK(verl("#### 5 #### 6", "5") == Outcome::wrong);
  CHECK(verl("#### 5 #### six", "5") == Outcome::correct);
  CHECK(verl("#### ,", "5") == Outcome::wrong);
  CHECK(verl("", "5") == Outcome::unparsable);
  CHECK(score(Scorer::verl, "#### 72", "72").score == 1.0);
  CHECK(score(Scorer::verl, "#### 71", "72").score == 0.0);
}

TEST_CASE("verl looks at the last 300 characters, and a character is a code point") {
  CHECK(verl("#### 7" + std::string(294, 'x'), "7") == Outcome::correct);
  CHECK(verl("#### 7" + std::string(295, 'x'), "7") == Outcome::unparsable);
  std::string accents;
  for (int i = 0; i < 294; ++i) accents += "é";
  CHECK(verl("#### 7" + accents, "7") == Outcome::correct);
  CHECK(verl("#### 7" + accents + "é", "7") == Outcome::unparsable);
}

TEST_CASE("the robust scorer takes what people write") {
  for (const auto* text : {"####72", "#### $72", "#### 72.", "#### 72.00", "#### 0072", "####\t72", "#### 72 apples"})
    CHECK(robust(text, "72") == Outcome::correct);
  CHECK(robust("#### 1,234", "1234") == Outcome::correct);
  CHECK(robust("#### 1234", "1,234") == Outcome::correct);
  CHECK(robust("#### -$5", "-5") == Outcome::correct);
  CHECK(robust("#### $-5.50", "-5.5") == Outcome::correct);
  CHECK(robust("#### -0", "0") == Outcome::correct);
  CHECK(robust("#### 73", "72") == Outcome::wrong);
  CHECK(robust("The answer is 72.", "72") == Outcome::unparsable);
  CHECK(robust("#### none", "72") == Outcome::unparsable);
  CHECK(robust("#### 72" + std::string(1000, 'x'), "72") == Outcome::correct);
}

TEST_CASE("a gold answer that no completion could match is the scorer's error, not the model's") {
  CHECK(verl("#### 1,234", "1,234") == Outcome::scorer_error);
  CHECK(verl("#### 72", "seventy-two") == Outcome::scorer_error);
  CHECK(robust("#### 72", "") == Outcome::scorer_error);
  CHECK(score(Scorer::robust, "#### 72", "").score == 0.0);
}

TEST_CASE("form and arithmetic are told apart") {
  const auto both = score(Scorer::verl, "3 + 4 = 7\n#### 7", "7");
  CHECK((both.format_right && both.arithmetic_right));
  const auto form_only = score(Scorer::verl, "#### 8", "7");
  CHECK((form_only.format_right && !form_only.arithmetic_right));
  const auto sum_only = score(Scorer::verl, "3 + 4 = 7. The answer is 7.", "7");
  CHECK((!sum_only.format_right && sum_only.arithmetic_right));
  CHECK(sum_only.outcome == Outcome::unparsable);
  // The answer is what follows `####`, not a number that is mentioned later.
  CHECK(score(Scorer::verl, "#### 7 out of 9", "7").arithmetic_right);
  CHECK_FALSE(score(Scorer::verl, "#### 7 out of 9", "9").arithmetic_right);
  // verl finds `72.` and says wrong; the arithmetic is right all the same.
  const auto dot = score(Scorer::verl, "#### 72.", "72");
  CHECK((dot.outcome == Outcome::wrong && dot.format_right && dot.arithmetic_right));
  CHECK(score(Scorer::verl, "it costs $1,234.50", "1234.5").arithmetic_right);
  CHECK(score(Scorer::verl, "10-3", "3").arithmetic_right);
  CHECK(score(Scorer::verl, "it is -3", "-3").arithmetic_right);
  CHECK_FALSE(score(Scorer::verl, "no number", "3").arithmetic_right);
}

TEST_CASE("gold answers and numbers") {
  CHECK(gold_answer("a\n#### 1,234") == "1234");
  CHECK(gold_answer("a\n#### 5\n#### 6") == "5");
  CHECK_FALSE(gold_answer("72").has_value());
  CHECK(canonical_number("007.50") == "7.5");
  CHECK(canonical_number("-0.0") == "0");
  CHECK(canonical_number(".5") == "0.5");
  for (const auto* text : {"", "-", "1.2.3", "1e5", "$", "."}) CHECK_FALSE(canonical_number(text).has_value());
}

TEST_CASE("the overlong penalty") {
  CHECK(overlong_penalty(1024, 1024, 0, 0.5) == 0.0);
  CHECK(overlong_penalty(768, 1024, 256, 0.5) == 0.0);
  CHECK(overlong_penalty(100, 1024, 256, 0.5) == 0.0);
  CHECK(overlong_penalty(896, 1024, 256, 0.5) == Approx(-0.25));
  CHECK(overlong_penalty(1024, 1024, 256, 0.5) == Approx(-0.5));
}
