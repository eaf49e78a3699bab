// The GSM8K reward: two named scorers, and what became of each completion.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace assay::train {

// verl:   bit-exact with verl's strict mode: in the last 300 characters the last match of `#### (\-?[0-9\.\,]+)`, `,`
//         stripped, compared as a string. `#### 72.` is wrong there, `####72` and `#### $72` are not found.
// robust: in the whole completion the last `####` that a number follows, white space, `$` and thousands commas
//         allowed, compared as a decimal number: `####72`, `#### $72`, `#### 72.`, `#### 72.00` are all 72.
enum class Scorer : std::uint8_t { verl, robust };
std::optional<Scorer> parse_scorer(std::string_view name);

enum class Outcome : std::uint8_t {
  correct,
  wrong,         // an answer was found and is not the gold one
  unparsable,    // no answer in the scorer's form
  scorer_error,  // no fair verdict is possible: the gold answer is not a number the scorer could ever match
};
const char* name(Outcome outcome);

struct Score {
  double score = 0;               // 1 for correct, 0 otherwise
  Outcome outcome = Outcome::unparsable;
  bool format_right = false;      // an answer in the scorer's form is there
  bool arithmetic_right = false;  // the number given as the answer, in any form, is the gold one: what follows the last
                                  // `####`, without one the last number of the text
  std::string answer;             // as the scorer found it; empty: none
};

// `completion` is UTF-8 (characters are code points, as in Python); `gold` is the bare number.
Score score(Scorer scorer, std::string_view completion, std::string_view gold);

// The gold answer in a GSM8K solution text: the first `#### number`, commas stripped; nullopt when there is none.
std::optional<std::string> gold_answer(std::string_view solution);

// A decimal number in one spelling: no sign on zero, no leading or trailing zeros, commas and `$` gone.
// nullopt when it is not one ("1.2.3", "", "-").
std::optional<std::string> canonical_number(std::string_view text);

// DAPO's penalty for responses that run into the last `buffer` tokens before `max_length`; 0 when buffer is 0:
// min(-(length - (max_length - buffer)) / buffer * factor, 0).
double overlong_penalty(std::int64_t length, std::int64_t max_length, std::int64_t buffer, double factor);

}  // namespace assay::train
