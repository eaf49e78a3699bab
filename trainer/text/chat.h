// The chat template of the model at hand: tokenizer_config.json's chat_template or chat_template.jinja, recognised by
// its text and rendered by code of ours that gives the same string; a template not known exactly is refused.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace assay::train {

struct Message {
  std::string role, content;  // role: system | user | assistant
};

class ChatTemplate {
 public:
  // Throws std::runtime_error naming the file when there is no template, it is not one of the known ones, or it is one of
  // those that are known and not rendered.
  static ChatTemplate load(const std::filesystem::path& folder);
  std::string render(const std::vector<Message>& messages, bool add_generation_prompt = true) const;
  const std::string& family() const { return family_; }

 private:
  std::string family_;  // chatml-smollm2, chatml-qwen2.5, qwen3, qwen3-2507, llama3, llama3.1
  std::string bos_;     // llama3, llama3.1
};

}  // namespace assay::train
