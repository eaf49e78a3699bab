// Thousands of damaged copies of the series that ship: each ends in a series or in diagnostics that point somewhere.
#include <random>

#include "reading.h"
#include "series_invariants.h"
#include "support/files.h"

using namespace assay;
using namespace assay::test;
namespace fs = std::filesystem;

namespace {

class Damage {
 public:
  explicit Damage(std::uint64_t seed) : random_(seed) {}

  std::string operator()(std::string text) {
    for (std::size_t times = 1 + below(4); times > 0 && !text.empty(); --times) once(text);
    return text;
  }

 private:
  std::size_t below(std::size_t n) { return n ? random_() % n : 0; }

  void once(std::string& text) {
    static const std::vector<std::string> words = {
        "[", "]", "[[run]]", "{", "}", "\"", "'", "\"\"\"", "=", ".", ",", "#", "\n", "\r", "\xff", "\xe2\x82", "\\u12",
        "nan", "inf", "-1", "0", "1e999", "9223372036854775808", "true", "[]", "{}", "\"\"", "2026-01-14", "07:32:00",
        "quant", "base = \"e13\"\n", "base = \"e13b-nvfp4\"\n", "baseline = \"e13h-mxfp4\"\n", "id = \"bf16\"\n",
        "\"nvfp4\"", "\"mxfp4\"", "\"none\"", "\"floor\"", "'^((a*)*)*$'", "['^.*$']", "[\"q_proj\"]", "noise.kind = 1\n"};
    const std::size_t at = below(text.size());
    const std::size_t line = text.rfind('\n', at) == std::string::npos ? 0 : text.rfind('\n', at) + 1;
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    switch (below(8)) {
      case 0: text[at] = static_cast<char>(1 + below(255)); break;
      case 1: text.erase(at, 1 + below(20)); break;
      case 2: text.insert(at, words[below(words.size())]); break;
      case 3: text.insert(line, text.substr(line, end - line)); break;
      case 4: text.erase(line, end - line); break;
      case 5: text.resize(at); break;
      case 6: {  // another value
        const std::size_t equals = text.find(" = ", line);
        if (equals == std::string::npos) break;
        const std::size_t stop = std::min(text.find('\n', equals), text.size());
        text.replace(equals + 3, stop - equals - 3, words[below(words.size())]);
        break;
      }
      case 7: {  // a piece of another place
        const std::size_t from = below(text.size());
        text.insert(at, text.substr(from, below(80)));
        break;
      }
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

TEST_CASE("damaged series files end in a series or in diagnostics with a place") {
  const fs::path folder = fresh_folder("fuzz");
  write(folder / "model/config.json", "{\"num_hidden_layers\": 2}");
  const fs::path file = folder / "damaged.toml";
  std::vector<std::string> originals;
  for (const char* id : {"e13", "e13-gsm8k", "smollm2-words", "smollm2-gsm8k"})
    originals.push_back(support::read_file(source("experiments") / id / (std::string(id) + ".toml")));
  originals.push_back("id = \"x\"\nbase = \"e13/e13g-nvfp4\"\nchange = { \"quant.ste\" = false }\nbaseline = \"e13g-nvfp4\"\n");
  std::size_t series = 0, refused = 0;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    const std::string text = Damage(seed)(originals[seed % originals.size()]);
    write(file, text);
    INFO("seed " << seed << "\n" << text);
    bool good = false;
    const std::string finding = fuzz::series_finding(file, good);
    if (!finding.empty()) FAIL(finding);
    ++(good ? series : refused);
  }
  // Neither way out is closed. How often damage is harmless follows from how much of the shipped files is comment.
  CHECK(series > 100);
  CHECK(refused > 100);
}
