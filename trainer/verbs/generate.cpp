#include <filesystem>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/session.h"
#include "trainer/rollout/sampler.h"
#include "trainer/text/chat.h"
#include "trainer/text/tokenizer.h"
#include "trainer/verbs/json_lines.h"
#include "trainer/verbs/open_model.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

using Json = nlohmann::json;

class Generator {
 public:
  Generator(const std::filesystem::path& folder, const std::filesystem::path& adapter, int threads,
            const std::string& dtype)
      : folder_(folder), tokenizer_(load_tokenizer(folder)), decoder_(open_model(folder, adapter, threads, dtype)) {
    check_vocabulary(folder, tokenizer_, decoder_.shape());
  }

  Json answer(const Json& line) {
    refuse_unknown(line, {"prompt", "messages", "ids", "max_new_tokens", "temperature", "top_k", "top_p", "seed"});
    SamplerOptions options;
    options.eos_ids = decoder_.shape().eos_ids;
    options.max_new_tokens = whole(line, "max_new_tokens", 64);
    options.temperature = real(line, "temperature", 0, 0, 100);
    options.top_k = whole(line, "top_k", 0);
    options.top_p = real(line, "top_p", 1, 1e-9, 1);
    options.seed = static_cast<std::uint64_t>(whole(line, "seed", 0));
    const Rollout rollout = sample(decoder_, {prompt(line)}, options);
    return {{"text", tokenizer_.decode(rollout.responses[0])},
            {"ids", rollout.responses[0]},
            {"logprobs", rollout.logprobs[0]},
            {"truncated", static_cast<bool>(rollout.truncated[0])}};
  }

 private:
  static Tokenizer load_tokenizer(const std::filesystem::path& folder) {
    try {
      return Tokenizer::load(folder);
    } catch (const std::runtime_error& error) {
      throw BadInput(error.what());
    }
  }

  static std::int64_t whole(const Json& line, const char* key, std::int64_t otherwise) {
    if (!line.contains(key)) return otherwise;
    const Json& value = line[key];
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      throw std::runtime_error(std::string("\"") + key + "\" must be a whole number, 0 or more");
    return value.get<std::int64_t>();
  }
  static double real(const Json& line, const char* key, double otherwise, double low, double high) {
    if (!line.contains(key)) return otherwise;
    if (!line[key].is_number() || !(line[key].get<double>() >= low && line[key].get<double>() <= high))
      throw std::runtime_error(std::string("\"") + key + "\" is out of range");
    return line[key].get<double>();
  }

  std::vector<std::int32_t> prompt(const Json& line) {
    if (line.contains("prompt") + line.contains("messages") + line.contains("ids") != 1)
      throw std::runtime_error("give one of \"prompt\", \"messages\", \"ids\"");
    if (line.contains("ids")) return ids_of(line["ids"], decoder_.shape().vocabulary);
    if (line.contains("prompt")) {
      if (!line["prompt"].is_string()) throw std::runtime_error("\"prompt\" must be a string");
      return tokenizer_.encode(line["prompt"].get_ref<const std::string&>());
    }
    if (!chat_) chat_ = ChatTemplate::load(folder_);
    if (!line["messages"].is_array()) throw std::runtime_error("\"messages\" must be a list");
    std::vector<Message> messages;
    for (const Json& entry : line["messages"]) {
      const bool sound = entry.is_object() && entry.contains("role") && entry["role"].is_string() &&
                         entry.contains("content") && entry["content"].is_string();
      if (!sound) throw std::runtime_error("a message must be {\"role\": …, \"content\": …} with strings, not " + entry.dump());
      messages.push_back({entry["role"].get<std::string>(), entry["content"].get<std::string>()});
    }
    return tokenizer_.encode(chat_->render(messages));
  }

  std::filesystem::path folder_;
  Tokenizer tokenizer_;
  Decoder decoder_;
  std::optional<ChatTemplate> chat_;
};

}  // namespace

void add_generate(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "generate",
      "JSON lines on standard input: {\"prompt\"|\"messages\"|\"ids\", \"max_new_tokens\": 64, \"temperature\": 0 (greedy), "
      "\"top_k\": 0 (off), \"top_p\": 1, \"seed\": 0} gives {\"text\", \"ids\", \"logprobs\", \"truncated\"}");
  struct Options {
    std::filesystem::path model, adapter;
    std::string dtype = "fp32";
    int threads = 1;
    bool json = true;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("--model", options->model, "a Hugging Face folder")->required();
  verb->add_option("--adapter", options->adapter, "a PEFT adapter folder to put onto it, e.g. a run's adapter/");
  verb->add_option("--dtype", options->dtype, "arithmetic: fp32 (default) or bf16")->check(CLI::IsMember({"fp32", "bf16"}));
  verb->add_option("--threads", options->threads, "processor threads (default 1)")->check(CLI::Range(1, 1024));
  verb->add_flag("--json", options->json, "the output is JSON lines with and without it");
  verb->callback([options, &exit_code] {
    Generator generator(options->model, options->adapter, options->threads, options->dtype);
    answer_json_lines(std::cin, std::cout, [&generator](const Json& line) { return generator.answer(line); });
    exit_code = exit_finished;
  });
}

}  // namespace assay::train
