// Problems in GSM8K's JSON-lines form, the prompts made of them, and the order they are trained on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/text/chat.h"
#include "trainer/text/tokenizer.h"

namespace assay::train {

struct Problem {
  std::string question;
  std::string gold;       // the bare number behind `####`
  std::int64_t line = 0;  // 1-based, in its file
};

// {"question": …, "answer": … #### number} a line; other keys are ignored, blank lines skipped. The first `limit` problems
// (0: all). Throws BadInput "FILE:LINE: WHAT; WHAT TO DO".
std::vector<Problem> read_problems(const std::filesystem::path& file, std::int64_t limit = 0);

// Turns a question into the tokens the model is asked with.
class PromptBuilder {
 public:
  // style chat loads the model folder's chat template; throws what ChatTemplate::load throws.
  PromptBuilder(const spec::PromptConfig& config, const Tokenizer& tokenizer, const std::filesystem::path& model);
  std::string text(const std::string& question) const;
  std::vector<std::int32_t> ids(const std::string& question) const;

 private:
  spec::PromptConfig config_;
  const Tokenizer& tokenizer_;
  std::optional<ChatTemplate> template_;
};

// Prompts of all problems, in order. Throws BadInput naming FILE:LINE of one that is empty or longer than max_length.
std::vector<std::vector<std::int32_t>> build_prompts(const PromptBuilder& builder, const std::vector<Problem>& problems,
                                                     const std::filesystem::path& file, std::int64_t max_length);

// Which problems come next: a fresh seeded permutation for every epoch, without end.
class DataOrder {
 public:
  DataOrder(std::size_t problems, std::uint64_t seed);
  std::vector<std::size_t> next(std::int64_t n);
  std::int64_t epoch() const { return epoch_; }  // of the problem that comes next; from 0

  struct Place {
    std::int64_t epoch = 0, at = 0;  // problems of that epoch already taken
  };
  Place place() const { return {epoch_, static_cast<std::int64_t>(at_)}; }
  void go_to(const Place& place);    // 0 <= at <= problems

 private:
  void shuffle();
  std::uint64_t seed_;
  std::int64_t epoch_ = 0;
  std::size_t at_ = 0;
  std::vector<std::size_t> order_;
};

}  // namespace assay::train
