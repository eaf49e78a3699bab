#include "runner/run_folder.h"

#include <fstream>
#include <map>
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

namespace {

registry::NewRun frozen_run() {
  registry::NewRun run;
  run.series = "s";
  run.run = "r";
  run.seed = 1;
  run.config_json = "{\"a\":1}";
  run.config_sha256 = std::string(64, 'c');
  run.derived_json = "{\"d\":1}";
  run.run_json = "{\"batch\":\"b1\"}";
  run.code_json = run.environment_json = run.inputs_json = "{}";
  return run;
}

// Name -> permissions and text of all that is in a folder.
std::map<std::string, std::string> all_of(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    all[entry.path().filename().string()] = std::to_string(static_cast<int>(entry.status().permissions())) + " " +
                                            std::string(std::istreambuf_iterator<char>(in), {});
  }
  return all;
}

}  // namespace

TEST_CASE("a folder that was made ahead is the run's own, file by file, or is not used") {
  const fs::path top = test::fresh_folder("spare-folder");
  const std::vector<FrozenFile> files = {{"series.toml", "[series]\n"}};
  registry::NewRun run = frozen_run();
  fs::create_directories(top / "next");
  std::ofstream(top / "next" / "old") << "of a former daemon";
  SpareFolder spare(top / "next");
  CHECK_FALSE(fs::exists(top / "next"));
  const auto made = all_of(create_run_folder(top / "runs", 1, run, files, &spare));   // there is none yet
  CHECK(made.size() == 8);

  spare.prepare(run, files);
  CHECK(all_of(top / "next").size() == 9);
  spare.prepare(run, files);                       // it is there
  run.run_json = "{\"batch\":\"b2\"}";             // what differs in each is not made ahead
  auto second = all_of(create_run_folder(top / "runs", 2, run, files, &spare));
  CHECK_FALSE(fs::exists(top / "next"));
  CHECK(second.at("run.json").find("\"number\": 2") != std::string::npos);
  CHECK(second.at("run.json").find("b2") != std::string::npos);
  second["run.json"] = made.at("run.json");
  CHECK(second.at("states.jsonl").back() == ' ');   // empty, for the registry
  second.erase("states.jsonl");
  CHECK(second == made);

  const auto made_anew = [&](std::int64_t number, const registry::NewRun& other, const std::vector<FrozenFile>& others) {
    spare.prepare(run, files);
    const fs::path folder = create_run_folder(top / "runs", number, other, others, &spare);
    CHECK(fs::exists(top / "next"));
    return all_of(folder);
  };
  registry::NewRun other = run;
  other.environment_json = "{\"hostname\":\"b\"}";
  CHECK(made_anew(3, other, files).at("environment.json").find("hostname") != std::string::npos);
  other = run;
  other.config_sha256 = std::string(64, 'd');
  CHECK(made_anew(4, other, files).at("config.sha256").find("ddd") != std::string::npos);
  CHECK(made_anew(5, run, {{"series.toml", "[series] \n"}}).at("series.toml").find("] ") != std::string::npos);
  CHECK(made_anew(6, run, {}).size() == 7);

  // A folder of that name: a used one is refused as ever, a left one replaced.
  spare.prepare(run, files);
  std::ofstream(top / "runs" / "s" / run_folder_name(2, "r", 1) / "exit.json") << "{}";
  CHECK_THROWS_WITH(create_run_folder(top / "runs", 2, run, files, &spare), Catch::Contains("is there already"));
  spare.prepare(run, files);
  fs::remove(top / "runs" / "s" / run_folder_name(6, "r", 1) / "config.json");
  CHECK(all_of(create_run_folder(top / "runs", 6, run, files, &spare)).size() == 8);

  // Somebody has taken it away.
  spare.prepare(run, files);
  fs::remove_all(top / "next");
  CHECK(all_of(create_run_folder(top / "runs", 7, run, files, &spare)).size() == 8);
  spare.prepare(run, files);
  CHECK(all_of(create_run_folder(top / "runs", 8, run, files, &spare)).size() == 9);
  CHECK_FALSE(fs::exists(top / "next"));
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
