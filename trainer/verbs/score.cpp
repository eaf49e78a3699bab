#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "trainer/grpo/reward.h"
#include "trainer/verbs/json_lines.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

nlohmann::json score_line(Scorer scorer, const nlohmann::json& line) {
  for (const auto* key : {"completion", "answer"})
    if (!line.contains(key) || !line[key].is_string())
      throw std::runtime_error(std::string("\"") + key + "\" must be there and be a string");
  const std::string& answer = line["answer"].get_ref<const std::string&>();
  // A whole solution is taken as well as the bare number.
  const std::string gold = answer.find("####") == std::string::npos ? answer : gold_answer(answer).value_or(answer);
  const Score result = score(scorer, line["completion"].get_ref<const std::string&>(), gold);
  return {{"score", result.score},
          {"outcome", name(result.outcome)},
          {"found", result.answer},
          {"format_right", result.format_right},
          {"arithmetic_right", result.arithmetic_right}};
}

}  // namespace

void add_score(CLI::App& app, int&) {
  auto* verb = app.add_subcommand(
      "score", "JSON lines {\"completion\", \"answer\"} on standard input, {\"score\", \"outcome\", …} for each on standard output");
  auto scorer = std::make_shared<std::string>("verl");
  auto json = std::make_shared<bool>(true);
  verb->add_option("--scorer", *scorer, "verl (bit-exact with verl's strict mode) or robust")
      ->check(CLI::IsMember({"verl", "robust"}))
      ->capture_default_str();
  verb->add_flag("--json", *json, "the output is JSON lines with and without it");
  verb->callback([scorer, json] {
    const Scorer chosen = parse_scorer(*scorer).value();
    answer_json_lines(std::cin, std::cout, [chosen](const nlohmann::json& line) { return score_line(chosen, line); });
  });
}

}  // namespace assay::train
