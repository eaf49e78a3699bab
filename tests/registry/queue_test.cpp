#include <set>

#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::folder_name;
using assay::test::fresh_folder;
using assay::test::new_run;
using assay::test::with_runs;

TEST_CASE("a state's name is frozen and parses back") {
  const std::vector<std::string> frozen = {"queued", "blocked", "starting", "running", "succeeded",
                                           "failed", "killed",  "lost",     "stalled", "skipped"};
  for (std::size_t i = 0; i < frozen.size(); ++i) {
    CHECK(name(static_cast<StateKind>(i)) == frozen[i]);
    CHECK(parse_state(frozen[i]) == static_cast<StateKind>(i));
    CHECK(is_final(static_cast<StateKind>(i)) == (i >= 4));
  }
  CHECK_FALSE(parse_state("done"));
  CHECK_FALSE(parse_state(""));
}

TEST_CASE("a series is put, put again, and read") {
  auto records = Registry::open(fresh_folder("registry/series") / "r.sqlite", Registry::Access::read_write);
  CHECK_FALSE(records.series("e13"));
  records.put_series({"e13", "old", "goal", "{}"});
  records.put_series({"e13", "new", "goal", R"({"causes":[]})"});
  records.put_series({"a", "", "", ""});
  REQUIRE(records.series("e13"));
  CHECK(records.series("e13")->title == "new");
  CHECK(records.series("e13")->json == R"({"causes":[]})");
  REQUIRE(records.all_series().size() == 2);
  CHECK(records.all_series()[0].id == "a");
}

TEST_CASE("an added run is read as it was given") {
  auto records = with_runs(fresh_folder("registry/add") / "r.sqlite", 1);
  auto spec = new_run("h", -7, "b2");
  spec.priority = 3;
  spec.after = {1};
  const auto numbers = records.add_runs({spec}, folder_name);
  REQUIRE(numbers == std::vector<std::int64_t>{2});
  const auto row = records.run(2);
  REQUIRE(row);
  CHECK(row->series == "e13");
  CHECK(row->run == "h");
  CHECK(row->seed == -7);
  CHECK(row->batch == "b2");
  CHECK(row->folder == "/runs/e13/2-h");
  CHECK(row->config_json == spec.config_json);
  CHECK(row->config_sha256 == spec.config_sha256);
  CHECK(row->derived_json == spec.derived_json);
  CHECK(row->run_json == spec.run_json);
  CHECK(row->priority == 3);
  CHECK(row->after == std::vector<std::int64_t>{1});
  CHECK(row->state.kind == StateKind::queued);
  CHECK(row->attempt == 0);
  CHECK(row->created > 1.7e9);
  CHECK(row->started == 0);
  CHECK(row->ended == 0);
  REQUIRE(records.facts(2));
  CHECK(records.facts(2)->code_json == spec.code_json);
  CHECK(records.facts(2)->environment_json == spec.environment_json);
  CHECK(records.facts(2)->inputs_json == spec.inputs_json);
  CHECK_FALSE(records.run(3));
  CHECK_FALSE(records.facts(3));
}

TEST_CASE("no run exists without its folder: a callback that throws rolls all back") {
  auto records = with_runs(fresh_folder("registry/rollback") / "r.sqlite", 1);
  int calls = 0;
  CHECK_THROWS_WITH(records.add_runs({new_run("a"), new_run("b")},
                                     [&](std::int64_t number, const NewRun& run) -> std::string {
                                       if (++calls == 2) throw std::runtime_error("disk full");
                                       return folder_name(number, run);
                                     }),
                    "disk full");
  CHECK(calls == 2);
  CHECK(records.runs({}).size() == 1);
  CHECK(records.add_runs({new_run("c")}, folder_name).size() == 1);
  CHECK(records.problems().empty());
}

TEST_CASE("runs that cannot be are refused by name") {
  auto records = with_runs(fresh_folder("registry/refused") / "r.sqlite", 1);
  auto stranger = new_run();
  stranger.series = "e99";
  CHECK_THROWS_WITH(records.add_runs({stranger}, folder_name), Catch::Contains("e99"));
  auto waiting = new_run();
  waiting.after = {41};
  CHECK_THROWS_WITH(records.add_runs({waiting}, folder_name), Catch::Contains("41"));
  CHECK_THROWS_WITH(records.add_runs({new_run()}, [](auto, const auto&) { return std::string("/runs/e13/1-g"); }),
                    Catch::Contains("already belongs"));
  CHECK(records.runs({}).size() == 1);
}

TEST_CASE("listings filter, order and limit") {
  auto records = with_runs(fresh_folder("registry/list") / "r.sqlite", 0);
  records.put_series({"other", "", "", "{}"});
  auto other = new_run("g", 1, "b3");
  other.series = "other";
  records.add_runs({new_run("g", 1), new_run("h", 1), new_run("g", 2, "b2"), other}, folder_name);
  REQUIRE(records.transition(2, StateKind::queued, {StateKind::killed, {}, {}, "by hand"}, 5));

  const auto numbers = [&](const Registry::RunFilter& filter) {
    std::vector<std::int64_t> found;
    for (const auto& row : records.runs(filter)) found.push_back(row.number);
    return found;
  };
  using Numbers = std::vector<std::int64_t>;
  CHECK(numbers({}) == Numbers{1, 2, 3, 4});
  Registry::RunFilter filter;
  filter.series = "e13";
  CHECK(numbers(filter) == Numbers{1, 2, 3});
  filter.run = "g";
  CHECK(numbers(filter) == Numbers{1, 3});
  filter.seed = 2;
  CHECK(numbers(filter) == Numbers{3});
  filter = {};
  filter.batch = "b1";
  CHECK(numbers(filter) == Numbers{1, 2});
  filter.states = {StateKind::queued, StateKind::running};
  CHECK(numbers(filter) == Numbers{1});
  filter = {};
  filter.limit = 2;
  CHECK(numbers(filter) == Numbers{4, 3});
  filter.texts = false;
  CHECK(records.runs(filter)[0].config_json.empty());
  CHECK(records.runs(filter)[0].folder == "/runs/other/4-g");
  filter = {};
  filter.series = "x' OR 1=1 --";
  CHECK(numbers(filter).empty());

  records.add_runs({new_run("g", 1, "b4")}, folder_name);
  CHECK(records.newest_of_series("e13") == Numbers{2, 3, 5});   // h, g with seed 2, g
  CHECK(records.newest_of_series("none").empty());

  CHECK(records.latest_batch("other") == std::optional<std::string>("b3"));
  CHECK(records.latest_batch("e13") == std::optional<std::string>("b4"));
  CHECK_FALSE(records.latest_batch("none"));
}

TEST_CASE("a transition happens from the expected state only, and keeps the attempts' history") {
  auto records = with_runs(fresh_folder("registry/transition") / "r.sqlite", 1);
  CHECK_FALSE(records.transition(1, StateKind::running, {StateKind::succeeded, 0, {}, ""}, 9));
  CHECK(records.run(1)->state.kind == StateKind::queued);
  CHECK(records.transition(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 10));
  CHECK_FALSE(records.transition(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 10));
  CHECK(records.transition(1, StateKind::starting, {StateKind::running, {}, {}, ""}, 11));
  CHECK(records.run(1)->attempt == 1);
  CHECK(records.run(1)->started == 10);
  CHECK(records.run(1)->ended == 0);
  CHECK(records.transition(1, StateKind::running, {StateKind::stalled, {}, 9, "no progress for 600 s"}, 700));
  CHECK(records.run(1)->ended == 700);
  CHECK(records.transition(1, StateKind::stalled, {StateKind::queued, {}, {}, ""}, 701));
  CHECK(records.run(1)->started == 0);
  CHECK(records.run(1)->ended == 0);
  CHECK_FALSE(records.run(1)->state.signal);
  CHECK(records.transition(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 702));
  CHECK(records.transition(1, StateKind::starting, {StateKind::failed, 4, {}, "non-finite loss"}, 703));
  const auto row = records.run(1);
  CHECK(row->state.kind == StateKind::failed);
  CHECK(row->state.exit_code == 4);
  CHECK(row->state.detail == "non-finite loss");
  const auto attempts = records.attempts(1);
  REQUIRE(attempts.size() == 2);
  CHECK(attempts[0].state.kind == StateKind::stalled);
  CHECK(attempts[0].state.signal == 9);
  CHECK(attempts[0].started == 10);
  CHECK(attempts[0].ended == 700);
  CHECK(attempts[1].state.kind == StateKind::failed);
  CHECK(attempts[1].state.exit_code == 4);
  CHECK(attempts[1].ended == 703);
  CHECK_THROWS_WITH(records.transition(8, StateKind::queued, {}, 1), Catch::Contains("no run 8"));
}

TEST_CASE("a run that ends without having started again leaves the earlier attempt's record alone") {
  auto records = with_runs(fresh_folder("registry/transition-waiting") / "r.sqlite", 1);
  records.transition(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 1);
  records.transition(1, StateKind::starting, {StateKind::lost, {}, {}, "gone"}, 2);
  records.transition(1, StateKind::lost, {StateKind::queued, {}, {}, ""}, 3);
  REQUIRE(records.transition(1, StateKind::queued, {StateKind::killed, {}, {}, "by hand"}, 4));
  REQUIRE(records.attempts(1).size() == 1);
  CHECK(records.attempts(1)[0].state.kind == StateKind::lost);
  CHECK(records.attempts(1)[0].ended == 2);
  CHECK(records.run(1)->ended == 4);
}

TEST_CASE("a number is never given twice, also across a new connection") {
  const auto file = fresh_folder("registry/numbers") / "r.sqlite";
  std::set<std::int64_t> seen;
  for (int round = 0; round < 3; ++round) {
    auto records = Registry::open(file, Registry::Access::read_write);
    records.put_series({"e13", "", "", "{}"});
    for (const auto number : records.add_runs({new_run(), new_run()}, folder_name)) CHECK(seen.insert(number).second);
    CHECK_THROWS(records.add_runs({new_run()}, [](auto, const auto&) -> std::string { throw 1; }));
  }
  CHECK(seen.size() == 6);
}
