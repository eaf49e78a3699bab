#include "runner/run_folder.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "support/files.h"

using namespace assay;
using namespace assay::runner;
namespace fs = std::filesystem;
using registry::StateKind;

TEST_CASE("what an exit record amounts to") {
  const auto kind = [](const ExitRecord& record, bool finished) { return final_state(record, finished, false).kind; };
  ExitRecord record;
  record.kind = "exited";
  record.code = 0;
  CHECK(kind(record, true) == StateKind::succeeded);
  CHECK(kind(record, false) == StateKind::failed);
  record.code = 4;
  CHECK(kind(record, true) == StateKind::failed);
  record.kind = "killed";
  record.code = 0;   // ended cleanly on SIGTERM, even after it had finished: somebody ended it
  CHECK(kind(record, true) == StateKind::killed);
  record.kind = "timed_out";
  CHECK(kind(record, true) == StateKind::killed);
  record.kind = "stalled";
  CHECK(kind(record, true) == StateKind::stalled);
  record.kind = "not_started";
  CHECK(kind(record, true) == StateKind::failed);
  record.kind = "signalled";
  record.code.reset();
  record.signal = 11;
  CHECK(kind(record, true) == StateKind::failed);
  record.kind = "a word of a later version";
  CHECK(kind(record, true) == StateKind::failed);
}

TEST_CASE("the exit record goes to the folder and back; what is not one is refused") {
  const fs::path folder = test::fresh_folder("exit-record");
  CHECK_FALSE(read_exit(folder));
  ExitRecord record;
  record.kind = "signalled";
  record.signal = 9;
  record.by = "me";
  record.last_error = "bad \xff byte";
  record.started = 1.5;
  record.ended = 2.5;
  write_exit(folder, record);
  const auto back = read_exit(folder);
  REQUIRE(back);
  CHECK(back->kind == "signalled");
  CHECK_FALSE(back->code);
  CHECK(back->signal == 9);
  CHECK(back->ended == 2.5);
  CHECK(back->last_error.find("bad ") == 0);
  std::ofstream(folder / "exit.json") << "{\"kind\": 3}";
  CHECK_THROWS_WITH(read_exit(folder), Catch::Contains("exit.json"));
}

TEST_CASE("the last line that says something, without control characters") {
  const fs::path folder = test::fresh_folder("last-line");
  const auto last = [&](const std::string& text) {
    std::ofstream(folder / "stderr.log", std::ios::binary | std::ios::trunc) << text;
    return last_line(folder / "stderr.log");
  };
  CHECK(last_line(folder / "none") == "");
  CHECK(last("") == "");
  CHECK(last("one\ntwo\n") == "two");
  CHECK(last("one\n\n   \n") == "one");
  CHECK(last("\x1b[1;31mred\x1b[0m\r\n") == "red");
  CHECK(last(std::string(100'000, 'x') + "\nend") == "end");
  CHECK(last(std::string(100'000, 'x')).size() == 500);
}

TEST_CASE("names of run folders") {
  CHECK(run_folder_name(17, "e13g-nvfp4", 3) == "000017-e13g-nvfp4-s3");
  CHECK(run_folder_name(12345678, "a", -1) == "12345678-a-s-1");
}
