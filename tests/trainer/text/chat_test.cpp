#include "trainer/text/chat.h"

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "catch.h"
#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/verbs/verbs.h"

namespace {

using namespace assay::train;
using nlohmann::json;
using assay::test::fresh_folder;
using assay::test::source;

// What the verb answers to lines on standard input.
std::vector<json> tokenize(const std::filesystem::path& model, const std::string& lines) {
  std::istringstream in(lines);
  std::ostringstream out;
  auto* const old_in = std::cin.rdbuf(in.rdbuf());
  auto* const old_out = std::cout.rdbuf(out.rdbuf());
  std::cin.clear();
  int exit_code = -1;
  try {
    CLI::App app;
    add_tokenize(app, exit_code);
    app.parse("tokenize --model \"" + model.string() + "\"", false);
  } catch (...) {
    std::cin.rdbuf(old_in);
    std::cout.rdbuf(old_out);
    throw;
  }
  std::cin.rdbuf(old_in);
  std::cout.rdbuf(old_out);
  CHECK(exit_code == 0);
  std::vector<json> answers;
  std::istringstream text(out.str());
  for (std::string line; std::getline(text, line);) answers.push_back(json::parse(line));
  return answers;
}

}  // namespace

TEST_CASE("conversations are rendered as transformers does (tests/golden/text)") {
  for (const auto& [name, family] : {std::pair{"chat-smollm2", "chatml-smollm2"}, {"chat-qwen2.5", "chatml-qwen2.5"}, {"chat-qwen3", "qwen3"},
                                      {"chat-qwen3-2507", "qwen3-2507"}, {"chat-llama3", "llama3"}, {"chat-llama3.1", "llama3.1"}}) {
    const auto folder = source("tests/golden/text") / name;
    const auto chat = ChatTemplate::load(folder);
    CHECK(chat.family() == family);
    std::istringstream lines(assay::support::read_file(folder / "cases.jsonl"));
    int cases = 0;
    for (std::string line; std::getline(lines, line); ++cases) {
      const auto expected = json::parse(line);
      std::vector<Message> messages;
      for (const auto& message : expected["messages"]) messages.push_back({message["role"], message["content"]});
      INFO(name << " " << line);
      CHECK(chat.render(messages, expected["add_generation_prompt"].get<bool>()) == expected["text"].get<std::string>());
    }
    CHECK(cases > 100);
    CHECK_THROWS_WITH(chat.render({}), Catch::Contains("at least one message"));
    CHECK_THROWS_WITH(chat.render({{"tool", "x"}}), Catch::Contains("'tool'"));
  }
}

TEST_CASE("a template is taken from tokenizer_config.json, too, and an unknown one is refused") {
  const auto folder = fresh_folder("chat-template");
  CHECK_THROWS_WITH(ChatTemplate::load(folder), Catch::Contains("neither") && Catch::Contains("prompt.style = \"plain\""));
  const std::string text = assay::support::read_file(source("tests/golden/text/chat-qwen2.5/chat_template.jinja"));
  const auto config = folder / "tokenizer_config.json";
  std::ofstream(config) << json{{"chat_template", text}};
  CHECK(ChatTemplate::load(folder).family() == "chatml-qwen2.5");
  std::ofstream(config) << json{{"chat_template", {{{"name", "tool_use"}, {"template", "x"}}, {{"name", "default"}, {"template", text}}}}};
  CHECK(ChatTemplate::load(folder).family() == "chatml-qwen2.5");
  std::ofstream(config) << json{{"chat_template", text + " "}};
  CHECK_THROWS_WITH(ChatTemplate::load(folder), Catch::Contains("tokenizer_config.json: ") && Catch::Contains("not a known one") &&
                                                    Catch::Contains("prompt.style = \"plain\""));
  std::ofstream(config) << json::object();
  CHECK_THROWS_WITH(ChatTemplate::load(folder), Catch::Contains("has no chat_template"));
  std::ofstream(config) << "{";
  CHECK_THROWS_WITH(ChatTemplate::load(folder), Catch::Contains("no JSON"));
  std::ofstream(config) << json{{"chat_template", text}};
  std::ofstream(folder / "chat_template.jinja") << "{{ messages }}";  // it wins
  CHECK_THROWS_WITH(ChatTemplate::load(folder), Catch::Contains("chat_template.jinja: "));
}

TEST_CASE("tokenize answers every line, bad ones with an error") {
  const auto folder = fresh_folder("tokenize");
  std::filesystem::copy(source("tests/golden/text/qwen2.5-like/tokenizer.json"), folder);
  const auto before = tokenize(folder, R"({"messages":[{"role":"user","content":"hi"}]})" "\n");
  REQUIRE(before.size() == 1);
  CHECK(before[0].contains("error"));  // no template: text alone can be tokenized
  std::filesystem::copy(source("tests/golden/text/chat-smollm2/chat_template.jinja"), folder);

  const auto answers = tokenize(folder, R"({"text":"Tom's 12 apples"}
nonsense
{"messages":[{"role":"user","content":"hi"}]}
{"messages":[{"role":"user","content":"hi"}],"add_generation_prompt":false}
{"messages":[{"role":"robot","content":"hi"}]}
{"messages":[{"role":"user"}]}
{"ids":[99999]}
{"ids":[-1]}
{"text":1}
{}
{"text":"a","ids":[1]}
{"txet":"a"}
{"text":"a\ud800"}

{"text":""})");
  REQUIRE(answers.size() == 15);
  for (const std::size_t good : {0, 2, 3, 14}) CHECK(answers[good].contains("ids"));
  for (const std::size_t bad : {1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}) {
    INFO(bad << " " << answers[bad]);
    CHECK(answers[bad].contains("error"));
  }
  CHECK(answers[11]["error"].get<std::string>().find("'text'") != std::string::npos);
  CHECK(answers[2]["ids"].size() > answers[3]["ids"].size());
  CHECK(answers[14]["ids"].empty());

  const auto again = tokenize(folder, json{{"ids", answers[0]["ids"]}}.dump() + "\n" + json{{"ids", answers[3]["ids"]}}.dump() +
                                          "\n" + json{{"ids", answers[3]["ids"]}, {"skip_special", true}}.dump());
  CHECK(again[0]["text"] == "Tom's 12 apples");
  CHECK(again[1]["text"].get<std::string>().find("<|im_start|>user\nhi<|im_end|>") != std::string::npos);
  CHECK(again[2]["text"].get<std::string>().find("<|im_start|>") == std::string::npos);
  CHECK_THROWS_AS(tokenize(folder / "none", ""), BadInput);
}
