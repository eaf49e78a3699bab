#include "trainer/grpo/data.h"

#include <cassert>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/reward.h"
#include "trainer/grpo/seeds.h"

namespace assay::train {
namespace {

[[noreturn]] void refuse(const std::filesystem::path& file, std::int64_t line, const std::string& what) {
  throw BadInput(file.string() + ":" + std::to_string(line) + ": " + what);
}

std::string text_of(const nlohmann::json& object, const char* key, const std::filesystem::path& file, std::int64_t line) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string() || found->get_ref<const std::string&>().empty())
    refuse(file, line, std::string("there is no \"") + key +
                           "\"; every line must be {\"question\": \"…\", \"answer\": \"… #### number\"}");
  return *found;
}

}  // namespace

std::vector<Problem> read_problems(const std::filesystem::path& file, std::int64_t limit) {
  std::ifstream in(file);
  if (!in) throw BadInput(file.string() + ": the data file cannot be read; check data.train and data.test");
  std::vector<Problem> problems;
  std::string text;
  for (std::int64_t line = 1; std::getline(in, text); ++line) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (limit > 0 && static_cast<std::int64_t>(problems.size()) == limit) break;
    const auto object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object())
      refuse(file, line, "this is not a JSON object; every line must be {\"question\": \"…\", \"answer\": \"… #### number\"}");
    Problem problem;
    problem.line = line;
    problem.question = text_of(object, "question", file, line);
    const auto gold = gold_answer(text_of(object, "answer", file, line));
    if (!gold || !canonical_number(*gold))
      refuse(file, line, "the answer has no `#### number`; end it with a line like `#### 72`, or take the problem out");
    problem.gold = *gold;
    problems.push_back(std::move(problem));
  }
  if (in.bad()) throw std::runtime_error(file.string() + ": reading it failed");
  if (problems.empty()) throw BadInput(file.string() + ": there are no problems in it; it must hold one JSON object a line");
  return problems;
}

PromptBuilder::PromptBuilder(const spec::PromptConfig& config, const Tokenizer& tokenizer,
                             const std::filesystem::path& model)
    : config_(config), tokenizer_(tokenizer) {
  if (config.style == "chat") template_ = ChatTemplate::load(model);
}

std::string PromptBuilder::text(const std::string& question) const {
  static const std::string slot = "{question}";
  std::string prompt;
  std::size_t from = 0;
  for (std::size_t at; (at = config_.text.find(slot, from)) != std::string::npos; from = at + slot.size())
    prompt += config_.text.substr(from, at - from) + question;
  prompt += config_.text.substr(from);
  if (!template_) return prompt;
  std::vector<Message> messages;
  if (!config_.system.empty()) messages.push_back({"system", config_.system});
  messages.push_back({"user", prompt});
  return template_->render(messages);
}

std::vector<std::int32_t> PromptBuilder::ids(const std::string& question) const {
  return tokenizer_.encode(text(question));
}

std::vector<std::vector<std::int32_t>> build_prompts(const PromptBuilder& builder, const std::vector<Problem>& problems,
                                                     const std::filesystem::path& file, std::int64_t max_length) {
  std::vector<std::vector<std::int32_t>> prompts;
  prompts.reserve(problems.size());
  for (const auto& problem : problems) {
    prompts.push_back(builder.ids(problem.question));
    const auto length = static_cast<std::int64_t>(prompts.back().size());
    if (length == 0) refuse(file, problem.line, "the prompt is empty; check prompt.text");
    if (length > max_length)
      refuse(file, problem.line, "the prompt has " + std::to_string(length) + " tokens and rollout.max_prompt_length is " +
                                     std::to_string(max_length) + "; raise it, or take the problem out");
  }
  return prompts;
}

DataOrder::DataOrder(std::size_t problems, std::uint64_t seed) : seed_(seed), order_(problems) {
  assert(problems > 0);
  shuffle();
}

void DataOrder::shuffle() {
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  // Fisher–Yates by hand: std::shuffle gives another order with another standard library.
  std::mt19937_64 random(derive_seed(seed_, static_cast<std::uint64_t>(epoch_), Purpose::data));
  for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
  at_ = 0;
}

void DataOrder::go_to(const Place& place) {
  assert(place.at >= 0 && place.at <= static_cast<std::int64_t>(order_.size()));
  epoch_ = place.epoch;
  shuffle();
  at_ = static_cast<std::size_t>(place.at);
}

std::vector<std::size_t> DataOrder::next(std::int64_t n) {
  std::vector<std::size_t> taken;
  while (static_cast<std::int64_t>(taken.size()) < n) {
    if (at_ == order_.size()) {
      ++epoch_;
      shuffle();
    }
    taken.push_back(order_[at_++]);
  }
  return taken;
}

}  // namespace assay::train
