// The corpus, and some thousands of seeded changes of it: what libFuzzer does for longer (`make fuzz`).
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "catch.h"
#include "runner_case.h"

namespace {

std::vector<std::string> corpus(const std::string& name) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(assay::test::source("tests/fuzz/corpus/" + name)))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::string> texts;
  for (const auto& file : files) {
    std::ostringstream text;
    text << std::ifstream(file, std::ios::binary).rdbuf();
    texts.push_back(std::move(text).str());
  }
  return texts;
}

// Bytes changed, removed, repeated, and pieces of another input put in.
std::string changed(std::string text, const std::vector<std::string>& all, std::mt19937& random) {
  static const std::string kTelling = "{}[]\",:\\0123456789.eE+-ntfu \n\xff";
  for (unsigned i = 0; i <= random() % 4; ++i) {
    const std::size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 5) {
      case 0: if (!text.empty()) text[at] = kTelling[random() % kTelling.size()]; break;
      case 1: text.erase(at, 1 + random() % 8); break;
      case 2: text.insert(at, 1, kTelling[random() % kTelling.size()]); break;
      case 3: text.insert(at, text.substr(at, random() % 16)); break;
      default: {
        const std::string& other = all[random() % all.size()];
        const std::size_t from = other.empty() ? 0 : random() % other.size();
        text.insert(at, other.substr(from, random() % 24));
      }
    }
  }
  return text;
}

void whole(const std::string& name, int rounds, const std::function<void(std::string_view)>& check) {
  const auto texts = corpus(name);
  REQUIRE(texts.size() > 5);
  for (const std::string& text : texts) {
    CAPTURE(text);
    CHECK_NOTHROW(check(text));
  }
  std::mt19937 random(20261125);
  for (int i = 0; i < rounds; ++i) {
    const std::string text = changed(texts[random() % texts.size()], texts, random);
    try {
      check(text);
    } catch (const std::exception& error) {
      FAIL(error.what() << "\n" << text);
    }
  }
}

}  // namespace

TEST_CASE("any line at all of metrics.jsonl") { whole("metrics", 20'000, assay::fuzz::check_metrics_line); }

TEST_CASE("any bytes at all on the daemon's socket") { whole("protocol", 3000, assay::fuzz::check_protocol); }
