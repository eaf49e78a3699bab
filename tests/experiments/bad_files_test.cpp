// Every file of bad/ beside the text it must end in, to the letter.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <regex>

#include "reading.h"
#include "support/files.h"

using namespace assay;
using namespace assay::test;
namespace fs = std::filesystem;

namespace {

// Which series there are is not these tests' business.
std::string without_list(const std::string& text) {
  return std::regex_replace(text, std::regex("; there are [a-z0-9., _-]+"), "; there are …");
}

}  // namespace

TEST_CASE("each bad file ends in its own diagnostics") {
  const InFolder here(source("tests/experiments/bad"));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator("."))
    if (entry.path().extension() == ".toml") files.push_back(entry.path().filename());
  std::sort(files.begin(), files.end());
  REQUIRE(files.size() >= 25);
  for (const fs::path& file : files) {
    DYNAMIC_SECTION(file.string()) {
      const std::string expected = support::read_file(fs::path(file).replace_extension(".txt"));
      CHECK_FALSE(expected.empty());
      CHECK(without_list(bad(file)) == expected);
    }
  }
}

TEST_CASE("a file that is no series file is one sentence") {
  const fs::path folder = fresh_folder("bad-files");
  const auto sentence = [&](const fs::path& file) { return bad(file).substr(folder.string().size() + 1); };

  CHECK(sentence(folder / "absent.toml") == "absent.toml: no such file\n");
  fs::create_directory(folder / "folder.toml");
  CHECK(sentence(folder / "folder.toml") == "folder.toml: this is a folder; name the .toml file in it\n");
  CHECK_THAT(sentence(write(folder / "empty.toml", "")), has("empty.toml: the file is empty; "));
  CHECK_THAT(sentence(write(folder / "bom.toml", "\xef\xbb\xbf")), has("bom.toml: the file is empty; "));
  CHECK(sentence(write(folder / "binary.toml", std::string("id = 1\nx\0y", 10))) ==
        "binary.toml: this is no text file: line 2 holds a NUL byte\n");
  CHECK(sentence(write(folder / "utf16.toml", std::string("\xff\xfei\0d\0", 6))) ==
        "utf16.toml: the file is UTF-16; TOML is UTF-8: save it as UTF-8\n");
  CHECK_THAT(sentence(write(folder / "latin1.toml", "title = \"\xe4\"\n")),
             has("latin1.toml:1:") && has("TOML syntax"));
  CHECK_THAT(sentence(write(folder / "huge.toml", std::string(5u << 20, '#'))), has("larger than 4 MiB"));
  REQUIRE(mkfifo((folder / "pipe.toml").c_str(), 0600) == 0);
  CHECK(sentence(folder / "pipe.toml") == "pipe.toml: this is no regular file\n");
  if (geteuid() == 0) {
    report_skipped("an unreadable file", "root reads everything");
  } else {
    write(folder / "secret.toml", "id = 1");
    fs::permissions(folder / "secret.toml", fs::perms::none);
    CHECK_THAT(sentence(folder / "secret.toml"), has("cannot be read"));
  }
}

TEST_CASE("line ends of Windows and a byte order mark change nothing") {
  const fs::path folder = fresh_folder("line-ends");
  const std::string plain = minimal + "prompt.text = \"\"\"{question}\nanswer\"\"\"\n[[run]]\nid = \"a\"\n";
  const std::string windows = "\xef\xbb\xbf" + std::regex_replace(plain, std::regex("\n"), "\r\n");
  const spec::Series one = good(write(folder / "one.toml", plain)), two = good(write(folder / "two.toml", windows));
  CHECK(one.runs[0].config.prompt.text == "{question}\nanswer");
  CHECK(one.runs[0].config.prompt.text == two.runs[0].config.prompt.text);
  CHECK(two.source == windows);
  const std::string wrong = std::regex_replace(plain + "ide = 3\n", std::regex("\n"), "\r\n");
  CHECK_THAT(bad(write(folder / "three.toml", wrong)), has("three.toml:10:1: [[run]]: unknown key 'ide'"));
}

// toml++ 3.3 ends the program here if its assertions are on.
TEST_CASE("a bracket alone on its line is a syntax error with a place") {
  const fs::path folder = fresh_folder("bracket");
  CHECK_THAT(bad(write(folder / "s.toml", minimal + "[\n")), has("s.toml:6:2: TOML syntax: "));
}

TEST_CASE("deep nesting ends in a syntax error") {
  const fs::path folder = fresh_folder("deep");
  std::string text = "x = ";
  for (int i = 0; i < 100000; ++i) text += "[\n";
  CHECK_THAT(bad(write(folder / "arrays.toml", text)), has("TOML syntax"));
  text = "a";
  for (int i = 0; i < 4000; ++i) text += ".a";
  CHECK_THAT(bad(write(folder / "dots.toml", text + " = 1\n")), has("dots.toml:1:1: a series file: unknown key 'a'"));
  // Deeper than a stack would bear, were it read.
  for (int i = 0; i < 1000000; ++i) text += ".a";
  CHECK_THAT(bad(write(folder / "deeper.toml", text + " = 1\n")), has("line 1 is longer than 10000 bytes"));
}
