#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "support/suggest.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/text/chat.h"
#include "trainer/text/tokenizer.h"
#include "trainer/verbs/json_lines.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

using Json = nlohmann::json;

Tokenizer load_tokenizer(const std::filesystem::path& folder) {
  try {
    return Tokenizer::load(folder);
  } catch (const std::runtime_error& error) {
    throw BadInput(error.what());
  }
}

class Lines {
 public:
  explicit Lines(const std::filesystem::path& folder) : folder_(folder), tokenizer_(load_tokenizer(folder)) {}

  Json answer(const Json& line) {
    const std::vector<std::string> known = {"text", "messages", "ids", "add_generation_prompt", "skip_special", "stream"};
    for (const auto& [key, value] : line.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        throw std::runtime_error("unknown key '" + key + "'" + support::did_you_mean(key, known));
    if (line.contains("text") + line.contains("messages") + line.contains("ids") != 1)
      throw std::runtime_error("give one of \"text\", \"messages\", \"ids\"");
    if (line.contains("text")) {
      if (!line["text"].is_string()) throw std::runtime_error("\"text\" must be a string");
      return {{"ids", tokenizer_.encode(line["text"].get_ref<const std::string&>())}};
    }
    if (line.contains("messages"))
      return {{"ids", tokenizer_.encode(chat().render(messages(line["messages"]), flag(line, "add_generation_prompt", true)))}};
    const bool skip = flag(line, "skip_special", false);
    if (!flag(line, "stream", false)) return {{"text", tokenizer_.decode(ids(line["ids"]), skip)}};
    StreamDecoder stream(tokenizer_, skip);
    Json pieces = Json::array();
    for (const std::int32_t id : ids(line["ids"])) pieces.push_back(stream.add(id));
    pieces.push_back(stream.finish());
    return {{"pieces", pieces}};
  }

 private:
  // A folder without a known template still tokenizes text; only lines with messages are refused.
  const ChatTemplate& chat() {
    if (!chat_) chat_ = ChatTemplate::load(folder_);
    return *chat_;
  }

  static bool flag(const Json& line, const char* key, bool otherwise) {
    if (!line.contains(key)) return otherwise;
    if (!line[key].is_boolean()) throw std::runtime_error(std::string("\"") + key + "\" must be true or false");
    return line[key].get<bool>();
  }

  static std::vector<Message> messages(const Json& list) {
    if (!list.is_array()) throw std::runtime_error("\"messages\" must be a list");
    std::vector<Message> result;
    for (const Json& entry : list) {
      const bool whole = entry.is_object() && entry.size() == 2 && entry.contains("role") && entry["role"].is_string() &&
                         entry.contains("content") && entry["content"].is_string();
      if (!whole) throw std::runtime_error("a message must be {\"role\": …, \"content\": …} with strings, not " + entry.dump());
      result.push_back({entry["role"].get<std::string>(), entry["content"].get<std::string>()});
    }
    return result;
  }

  std::vector<std::int32_t> ids(const Json& list) const {
    if (!list.is_array()) throw std::runtime_error("\"ids\" must be a list");
    std::vector<std::int32_t> result;
    for (const Json& entry : list) {
      if (!entry.is_number_unsigned() || entry.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max() ||
          !tokenizer_.contains(entry.get<std::int32_t>()))
        throw std::runtime_error("the vocabulary has no id " + entry.dump());
      result.push_back(entry.get<std::int32_t>());
    }
    return result;
  }

  std::filesystem::path folder_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> chat_;
};

}  // namespace

void add_tokenize(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "tokenize",
      "JSON lines on standard input: {\"text\"} or {\"messages\", \"add_generation_prompt\": true} gives {\"ids\"}, "
      "{\"ids\", \"skip_special\": false} gives {\"text\"}");
  struct Options {
    std::filesystem::path model;
    bool json = true;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("--model", options->model, "a Hugging Face folder with a tokenizer.json")->required();
  verb->add_flag("--json", options->json, "the output is JSON lines with and without it");
  verb->callback([options, &exit_code] {
    Lines lines(options->model);
    answer_json_lines(std::cin, std::cout, [&lines](const Json& line) { return lines.answer(line); });
    exit_code = exit_finished;
  });
}

}  // namespace assay::train
