// libFuzzer's stand-in where there is no clang: the corpus, and what seeded changes make of it.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "catch.h"
#include "verl_invariants.h"

using assay::fuzz::verl_finding;

namespace {

std::vector<std::string> corpus() {
  std::vector<std::string> texts;
  for (const auto& entry : std::filesystem::directory_iterator(assay::test::source("tests/fuzz/corpus/verl"))) {
    std::ifstream file(entry.path(), std::ios::binary);
    texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return texts;
}

}  // namespace

TEST_CASE("the console parsers keep their promises on the corpus") {
  const auto texts = corpus();
  REQUIRE(texts.size() >= 6);
  for (const std::string& text : texts) CHECK(verl_finding(text) == "");
}

TEST_CASE("and on every beginning of it, and with bytes changed, doubled, taken out and joined") {
  const auto texts = corpus();
  std::mt19937 random(11);
  const auto up_to = [&](std::size_t limit) { return static_cast<std::size_t>(random()) % limit; };
  for (const std::string& text : texts)
    for (std::size_t size = 0; size <= text.size(); size += 1 + text.size() / 400) REQUIRE(verl_finding(text.substr(0, size)) == "");
  for (int i = 0; i < 3000; ++i) {
    std::string text = texts[up_to(texts.size())];
    for (std::size_t changes = 1 + up_to(6); changes > 0 && !text.empty(); --changes) {
      const std::size_t at = up_to(text.size()), length = 1 + up_to(8);
      switch (up_to(4)) {
        case 0: text[at] = static_cast<char>(random()); break;
        case 1: text.erase(at, length); break;
        case 2: text.insert(at, text.substr(up_to(text.size()), length)); break;
        default: {
          const std::string& other = texts[up_to(texts.size())];
          text.insert(at, other.substr(up_to(other.size()), 1 + up_to(60)));
        }
      }
    }
    CAPTURE(i, text);
    REQUIRE(verl_finding(text) == "");
  }
}
