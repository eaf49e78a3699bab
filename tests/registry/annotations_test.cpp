// Records, the journal of states, copies, and runs put back.
#include <fstream>
#include <thread>

#include "registry/journal.h"
#include "support/files.h"
#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::fresh_folder;
using assay::test::with_runs;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

Record record(const std::string& kind, const std::string& text, std::int64_t run = 0, const std::string& run_id = "",
              const std::string& subject = "") {
  Record made;
  made.series = "e13";
  made.run = run;
  made.run_id = run_id;
  made.kind = kind;
  made.subject = subject;
  made.text = text;
  made.time = 1'800'000'000;
  made.author = "lab";
  made.source = "command";
  return made;
}

}  // namespace

TEST_CASE("records are versioned by what they are about, and none is lost") {
  auto registry = with_runs(fresh_folder("annotations/versions") / "registry.sqlite", 2);
  CHECK(registry.put_record(record("verdict", "flat", 1), 10)->version == 1);
  CHECK(registry.put_record(record("verdict", "learns", 1), 20)->version == 2);
  CHECK_FALSE(registry.put_record(record("verdict", "learns", 1), 20));     // the same line again
  CHECK(registry.put_record(record("verdict", "flat", 2), 10)->version == 1);  // another run's
  CHECK(registry.put_record(record("note", "one", 1), 30)->subject == "1");
  CHECK(registry.put_record(record("note", "two", 1), 40)->subject == "2");
  CHECK(registry.put_record(record("note", "one, corrected", 1, "", "1"), 50)->version == 2);
  auto tag = record("tag", "", 1, "", "keep");
  registry.put_record(tag, 60);
  tag.withdrawn = true;
  registry.put_record(tag, 70);
  registry.put_record(record("hypothesis", "it is the hook", 0, "g"), 10);
  registry.put_record(record("hypothesis", "of another id", 0, "h"), 20);
  registry.put_record(record("cause", "no effect", 0, "", "batch size"), 30);

  const auto of_run = registry.records_of_run(1);
  REQUIRE(of_run.size() == 8);
  CHECK(of_run[0].kind == "hypothesis");  // of the run id, before those of the run
  CHECK(of_run[0].run == 0);
  CHECK(of_run[1].text == "flat");
  CHECK_FALSE(of_run[1].newest);
  CHECK(of_run[2].newest);
  CHECK(of_run[2].series == "e13");
  CHECK(of_run[2].run_id == "g");
  CHECK_FALSE(of_run[3].newest);
  CHECK(of_run[5].text == "one, corrected");
  CHECK(of_run[5].newest);
  CHECK(of_run[7].withdrawn);
  CHECK(registry.records_of_series("e13").size() == 11);
  CHECK(registry.records_of_series("e14").empty());
  CHECK(registry.recorded_bytes("e13", 1) == 70);
  CHECK(registry.recorded_bytes("e13", 0) == 30);
  CHECK(registry.recorded_bytes("e13", 7) == 0);

  CHECK_THROWS_WITH(registry.put_record(record("verdict", "x", 9), 1), Contains("no run 9"));
  CHECK_THROWS_WITH(registry.put_record(record("opinion", "x", 1), 1), Contains("'opinion'"));
  auto elsewhere = record("note", "x");
  elsewhere.series = "e14";
  CHECK_THROWS_WITH(registry.put_record(elsewhere, 1), Contains("'e14'"));
  CHECK(registry.problems().empty());
  CHECK(registry.quick_problems().empty());
}

TEST_CASE("every state is a line in the run's folder, and the lines give the run back") {
  const auto folder = fresh_folder("annotations/journal");
  auto registry = Registry::open(folder / "registry.sqlite", Registry::Access::read_write);
  registry.put_series({"e13", "E13", "60 %", "{}"});
  auto first = assay::test::new_run(), second = first;
  second.after = {1};
  second.priority = 4;
  const auto make = [&](std::int64_t number, const NewRun&) {
    const auto made = folder / std::to_string(number);
    fs::create_directory(made);
    return made.string();
  };
  registry.add_runs({first}, make);
  registry.add_runs({second}, make);
  const auto move = [&](std::int64_t run, StateKind from, const State& to, double when) {
    REQUIRE(registry.transition(run, from, to, when));
  };
  move(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 100.25);
  move(1, StateKind::starting, {StateKind::running, {}, {}, ""}, 101);
  move(1, StateKind::running, {StateKind::failed, {}, 9, "out of memory"}, 110);
  move(1, StateKind::failed, {StateKind::queued, {}, {}, ""}, 111);
  move(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 120);
  move(1, StateKind::starting, {StateKind::running, {}, {}, ""}, 121);
  CHECK_FALSE(registry.transition(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 122));  // leaves no line
  move(1, StateKind::running, {StateKind::failed, 3, {}, "bad config"}, 130);
  move(2, StateKind::queued, {StateKind::blocked, {}, {}, "run 1"}, 99);
  move(2, StateKind::blocked, {StateKind::skipped, {}, {}, "run 1 did not succeed"}, 131);

  auto other = Registry::open(folder / "rebuilt.sqlite", Registry::Access::read_write);
  other.put_series({"e13", "E13", "60 %", "{}"});
  for (const std::int64_t number : {1, 2}) {
    const RunRow was = *registry.run(number);
    int bad = 0;
    const auto lines = read_states(was.folder, bad);
    CHECK(bad == 0);
    CHECK(lines.size() == (number == 1 ? 8 : 3));
    RunRow row = was;
    row.state = {};
    row.after.clear();
    const auto attempts = replay_states(lines, row);
    other.restore_run(row, *registry.facts(number), attempts);
    const RunRow is = *other.run(number);
    CHECK(is.created == was.created);
    CHECK(is.started == was.started);
    CHECK(is.ended == was.ended);
    CHECK(is.attempt == was.attempt);
    CHECK(is.priority == was.priority);
    CHECK(is.after == was.after);
    CHECK(is.state.kind == was.state.kind);
    CHECK(is.state.exit_code == was.state.exit_code);
    CHECK(is.state.signal == was.state.signal);
    CHECK(is.state.detail == was.state.detail);
    const auto a = registry.attempts(number), b = other.attempts(number);
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      CHECK(a[i].started == b[i].started);
      CHECK(a[i].ended == b[i].ended);
      CHECK(a[i].state.kind == b[i].state.kind);
      CHECK(a[i].state.signal == b[i].state.signal);
      CHECK(a[i].state.detail == b[i].state.detail);
    }
  }
  CHECK(other.add_runs({first}, make)[0] == 3);  // numbers go on after those put back

  { std::ofstream(folder / "1" / "states.jsonl", std::ios::app) << "{\"time\": 1, \"sta"; }
  int bad = 0;
  CHECK(read_states(folder / "1", bad).size() == 8);  // a torn last line is no fault
  CHECK(bad == 0);
  append_state(folder / "1", {140, 2, {StateKind::queued, {}, {}, ""}, 0, {}}, false, false);
  CHECK(read_states(folder / "1", bad).size() == 8);
  CHECK(bad == 1);  // two lines in one: told of, not taken
}

TEST_CASE("a copy is whole while others write, and never written over a file") {
  const auto folder = fresh_folder("annotations/backup");
  const auto file = folder / "registry.sqlite";
  auto registry = with_runs(file, 3);
  std::thread writer([&] {
    auto mine = Registry::open(file, Registry::Access::read_write);
    for (int step = 0; step < 200; ++step) mine.put_metrics(1, {{step, "a", 1.0 * step}}, {step, 200, {}, {}, 1});
  });
  const auto reader = Registry::open(file, Registry::Access::read_only);
  for (int i = 0; i < 5; ++i) {
    const auto copy = folder / ("copy-" + std::to_string(i) + ".sqlite");
    reader.back_up(copy);
    const auto made = Registry::open(copy, Registry::Access::read_only);
    CHECK(made.problems().empty());
    CHECK(made.runs({}).size() == 3);
    // One moment: the progress and the last point were written together.
    const auto points = made.metrics(1);
    CHECK(made.progress(1).step == (points.empty() ? -1 : points.back().step));
  }
  writer.join();
  CHECK_THROWS_WITH(reader.back_up(folder / "copy-0.sqlite"), Contains("is there already"));
  CHECK_THROWS(reader.back_up(folder / "no" / "such" / "folder.sqlite"));
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) files += entry.path().string().find(".tmp.") != std::string::npos;
  CHECK(files == 0);
}
