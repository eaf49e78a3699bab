#include "trainer/text/tokenizer.h"

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "catch.h"
#include "support/files.h"
#include "trainer/text/pattern.h"
#include "trainer/text/unicode.h"

namespace {

using namespace assay::train;
using nlohmann::json;
using assay::test::fresh_folder;
using assay::test::source;

// A byte-level tokenizer of 256 bytes and a few merges.
json small_tokenizer() {
  json vocabulary = json::object();
  for (int byte = 0, next = 256; byte < 256; ++byte) {
    std::string token;
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    append_code_point(token, static_cast<char32_t>(printable ? byte : next++));
    vocabulary[token] = byte;
  }
  for (const char* token : {"ab", "abc", "bc", "\u0120a"}) vocabulary[token] = vocabulary.size();
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", {"b c", "a b", "a bc", "\u0120 a"}}}}};
}

Tokenizer load(const json& description, const std::string& name = "tokenizer") {
  const auto folder = fresh_folder(name);
  std::ofstream(folder / "tokenizer.json") << description;
  return Tokenizer::load(folder);
}

std::string refusal(const json& description) {
  try {
    load(description);
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("ids and text are those of the tokenizers package (tests/golden/text)") {
  for (const char* name : {"qwen2.5-like", "o200k-like", "gpt2-like", "digit-runs"}) {
    const auto folder = source("tests/golden/text") / name;
    const auto tokenizer = Tokenizer::load(folder);
    std::istringstream lines(assay::support::read_file(folder / "cases.jsonl"));
    int cases = 0;
    for (std::string line; std::getline(lines, line); ++cases) {
      const auto expected = json::parse(line);
      INFO(name << " " << line);
      const auto ids = tokenizer.encode(expected["text"].get<std::string>());
      CHECK(ids == expected["ids"].get<std::vector<std::int32_t>>());
      CHECK(tokenizer.decode(ids) == expected["decoded"].get<std::string>());
      // The second time out of the cache.
      CHECK(tokenizer.encode(expected["text"].get<std::string>()) == ids);
    }
    CHECK(cases > 300);
  }
}

TEST_CASE("merges go by rank and, among equals, from the left") {
  const auto tokenizer = load(small_tokenizer());
  const auto id = [&](const char* token) { return tokenizer.id(token); };
  CHECK(tokenizer.encode("abc") == std::vector<std::int32_t>{id("abc")});  // b c first, then a bc
  CHECK(tokenizer.encode("ab") == std::vector<std::int32_t>{id("ab")});
  CHECK(tokenizer.encode("abbc") == std::vector<std::int32_t>{id("ab"), id("bc")});
  CHECK(tokenizer.encode("x abc") == std::vector<std::int32_t>{'x', 32, id("abc")});  // "a bc" has the lower rank
  CHECK(tokenizer.encode("x a") == std::vector<std::int32_t>{'x', id("\u0120a")});
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.vocabulary_size() == 260);
  CHECK(id("no such token") == -1);
  CHECK(tokenizer.contains(259));
  CHECK_FALSE(tokenizer.contains(260));
}

TEST_CASE("the forms of merges mean the same, and ignore_merges takes whole words") {
  auto description = small_tokenizer();
  description["model"]["merges"] = json::parse(R"([["b","c"],["a","b"],["a","bc"],["\u0120","a"]])");
  CHECK(load(description).encode("abc abbc") == load(small_tokenizer()).encode("abc abbc"));
  description["model"]["merges"] = json::array();
  CHECK(load(description).encode("abc") == std::vector<std::int32_t>{'a', 'b', 'c'});
  description["model"]["ignore_merges"] = true;
  CHECK(load(description).encode("abc") == std::vector<std::int32_t>{257});
}

TEST_CASE("bytes that the vocabulary lacks become the unknown token, or nothing") {
  auto description = small_tokenizer();
  description["model"]["vocab"].erase("x");
  description["model"]["vocab"].erase("y");
  CHECK(load(description).encode("axyb") == std::vector<std::int32_t>{257 - 1});  // a and b meet: "ab"
  description["model"]["vocab"]["<unk>"] = 300;
  description["model"]["unk_token"] = "<unk>";
  CHECK(load(description).encode("axyb") == std::vector<std::int32_t>{'a', 300, 300, 'b'});
  description["model"]["fuse_unk"] = true;
  CHECK(load(description).encode("axyb") == std::vector<std::int32_t>{'a', 300, 'b'});
}

TEST_CASE("broken UTF-8 is replaced by one U+FFFD for each maximal part, going in and coming out") {
  CHECK(to_valid_utf8("a\xFF\xC3(\xE2\x82z\xF0\x9F\x98") == "a\uFFFD\uFFFD(\uFFFDz\uFFFD");
  CHECK(to_valid_utf8("\xED\xA0\x80\xC0\x80\xF5\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(to_valid_utf8("\u00e9\U0001F600\u6f22") == "\u00e9\U0001F600\u6f22");
  const auto tokenizer = load(small_tokenizer());
  CHECK(tokenizer.encode("\xFF") == std::vector<std::int32_t>{0xEF, 0xBF, 0xBD});
  CHECK(tokenizer.decode({0xE2, 0x82, 'a'}) == "\uFFFD" "a");
  CHECK(tokenizer.decode({0xE2, 0x82, 0xAC, 100000, -1}) == "\u20ac");
}

TEST_CASE("what cannot be followed exactly is refused with its name and the file") {
  CHECK(refusal(small_tokenizer()).empty());
  struct Change {
    const char* pointer;
    json value;
    std::string word;
  };
  const Change changes[] = {
      {"/model/type", "WordPiece", "WordPiece"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"/model/vocab", json::object(), "no vocab"},
      {"/model/vocab/zz", 5, "the id 5"},
      {"/model/vocab/zz", -5, "no id"},
      {"/model/merges", json::array({"a zz"}), "'zz'"},
      {"/model/merges", json::array({"a"}), "no pair"},
      {"/model/merges", json::array({"a b c"}), "no pair"},
      {"/model/unk_token", "<unk>", "<unk>"},
      {"/normalizer", {{"type", "NFKC"}}, "NFKC"},
      {"/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}}, "Lowercase"},
      {"/pre_tokenizer", nullptr, "null"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "Whitespace"},
      {"/pre_tokenizer", {{"type", "Digits"}, {"individual_digits", true}}, "no ByteLevel"},
      {"/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}}, "behind ByteLevel"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Isolated"}}, "no Regex"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "x"}}}, {"behavior", "Removed"}}, "Removed"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "\\w"}}}, {"behavior", "Isolated"}}, "escape \\w"},
      {"/decoder", {{"type", "Metaspace"}}, "Metaspace"},
      {"/decoder", nullptr, "null"},
      {"/added_tokens", json::array({3}), "added_tokens"},
  };
  for (const Change& change : changes) {
    auto description = small_tokenizer();
    description[json::json_pointer(change.pointer)] = change.value;
    const std::string message = refusal(description);
    INFO(change.pointer << " " << change.value << "\n" << message);
    CHECK(has(message, change.word));
    CHECK(has(message, "tokenizer.json: "));
    CHECK(has(message, "; "));
  }
  json token = {{"id", 400}, {"content", "<x>"}, {"single_word", true}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  auto description = small_tokenizer();
  description["added_tokens"] = {token};
  CHECK(has(refusal(description), "single_word"));
  token["single_word"] = false;
  description["added_tokens"] = {token};
  CHECK(refusal(description).empty());
  CHECK(load(description).encode("a<x>") == std::vector<std::int32_t>{'a', 400});
  description["added_tokens"] = {token, token};
  CHECK(has(refusal(description), "twice"));
  token["id"] = 5;
  description["added_tokens"] = {token};
  CHECK(has(refusal(description), "the id 5"));

  const auto folder = fresh_folder("tokenizer-files");
  CHECK_THROWS_WITH(Tokenizer::load(folder), Catch::Contains("tokenizer.json: No such file") && Catch::Contains("; give"));
  std::ofstream(folder / "tokenizer.json") << "{\"model\":";
  CHECK_THROWS_WITH(Tokenizer::load(folder), Catch::Contains("is no JSON"));
  std::ofstream(folder / "tokenizer.json") << "[]";
  CHECK_THROWS_AS(Tokenizer::load(folder), std::runtime_error);
}

TEST_CASE("patterns mean in PCRE2 what they mean in Oniguruma, or are refused") {
  const auto split = [](const char* pattern, std::string_view text) {
    std::vector<std::string_view> pieces;
    Pattern(pattern).split(text, pieces);
    std::string joined;
    for (const auto piece : pieces) joined += std::string(piece) + "|";
    return joined;
  };
  CHECK(split(R"(\d+)", "ab12c3") == "ab|12|c|3|");
  CHECK(split(R"(x*)", "axxb") == "a|xx|b|");          // empty matches cut, too
  CHECK(split(R"(\s+)", "a\u180e\u3000b") == "a\u180e|\u3000|b|");  // U+180E is no white space
  CHECK(split(R"([^\S\n]+)", "a \t\n b") == "a| \t|\n| |b|");
  CHECK(split(R"((?<=a)b)", "abab") == "a|b|a|b|");
  CHECK(split(R"(\p{L}+)", "1\U00031350\u1c8a2") == "1|\U00031350\u1c8a|2|");  // letters of Unicode 15 and 16
  CHECK(split(R"(.)", "\r\n") == "\r|\n|");                                      // a dot is everything but \n
  for (const char* bad : {R"(\h)", R"(\w)", R"(\bx)", "^a", "a$", R"([a[b]])", "[a&&b]", "(?m)a", "(?#x)", "(*UCP)a", "a{2}+",
                          "a{,2}", R"(\p{Han})", R"(\p{^L})", R"([\P{L}])", R"(\x41)", "(?<name>a)", "(?i:\\p{Lu})", "[]a]", "[a"}) {
    INFO(bad);
    CHECK_THROWS_WITH(Pattern(bad), Catch::Contains(" holds "));
  }
  CHECK_THROWS_WITH(Pattern("(a"), Catch::Contains("does not compile"));
}

TEST_CASE("normalization composes what Unicode 9 composes") {
  CHECK(to_nfc("e\u0301\u0323") == "\u1eb9\u0301");
  CHECK(to_nfc("\u1112\u1161\u11ab") == "\ud55c");
  CHECK(to_nfc("\U00011935\U00011930") == "\U00011935\U00011930");  // a composition of Unicode 13
  CHECK(to_nfc("a\u08d0\u0323") == "a\u08d0\u0323");                // U+08D0 came with Unicode 14
  CHECK(to_nfc(std::string("a\0e\u0301", 5)) == std::string("a\0\u00e9", 4));
}

TEST_CASE("long runs take no quadratic time") {
  const auto tokenizer = Tokenizer::load(source("tests/golden/text/qwen2.5-like"));
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text : {std::string(200000, ' '), std::string(200000, 'a'), std::string(200000, '\n') + "x"})
    CHECK_FALSE(tokenizer.encode(text).empty());
  // Quadratic ways take minutes here; linear ones a tenth of a second, more under a sanitizer.
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
}

TEST_CASE("a stream of ids gives whole characters, and in all what decode() gives") {
  const auto tokenizer = load(small_tokenizer());
  const auto streamed = [&](const std::vector<std::int32_t>& ids) {
    StreamDecoder stream(tokenizer);
    std::string all;
    for (const auto id : ids) {
      const std::string piece = stream.add(id);
      if (to_valid_utf8(piece) != piece) FAIL("a piece ends inside of a character");
      all += piece;
    }
    return all + stream.finish();
  };
  StreamDecoder stream(tokenizer);
  CHECK(stream.add(0xF0).empty());  // bytes of U+1F600, one token each
  CHECK(stream.add(0x9F).empty());
  CHECK(stream.add(0x98).empty());
  CHECK(stream.add(0x80) == "\U0001F600");
  CHECK(stream.add('a') == "a");
  CHECK(stream.add(0xE2).empty());
  CHECK(stream.finish() == "\uFFFD");
  // Every pair, and triples around the edges of what may follow what.
  for (int first = 0; first < 256; ++first)
    for (int second = 0; second < 256; ++second) {
      const std::vector<std::int32_t> ids{first, second};
      if (streamed(ids) != tokenizer.decode(ids)) FAIL(first << " " << second);
    }
  const int edges[] = {0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5};
  for (const int a : edges)
    for (const int b : edges)
      for (const int c : edges)
        for (const int d : edges) {
          const std::vector<std::int32_t> ids{a, b, c, d, 'z'};
          if (streamed(ids) != tokenizer.decode(ids)) FAIL(a << " " << b << " " << c << " " << d);
        }
}
