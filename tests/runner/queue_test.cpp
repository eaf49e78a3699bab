// The queue as users see it: dependencies, priorities, slots, repetition, several commands at once.
#include <set>

#include "home.h"

using namespace assay;
using namespace assay::test;

TEST_CASE("--after waits for success, and says so; a failure skips what waits") {
  const Home home("after");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}, {"bad", "exit 1"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "b", "--after", "a"}).code == 0);
  const json waiting = json::parse(home.assay({"status", "--json"}).out);
  CHECK(waiting.at(1).at("state") == "blocked");
  CHECK(waiting.at(1).at("waits_for") == "run 1");
  CHECK_THAT(home.assay({"status"}).out, Catch::Contains("blocked: waits for run 1"));
  home.open_gate("go");
  CHECK(home.assay({"wait", "1", "2"}).code == 0);
  CHECK(home.run(2).started >= home.run(1).ended);

  REQUIRE(home.assay({"run", "s", "--only", "bad"}).code == 4);
  REQUIRE(home.assay({"run", "s", "--only", "b", "--after", "3"}).code == 4);
  CHECK(home.state(4) == "skipped");
  CHECK(home.run(4).attempt == 0);
}

TEST_CASE("as many runs at once as there are slots, by priority") {
  const Home home("slots");
  const std::string script = "echo $ASSAY_RUN_NUMBER >> $GATES/order; metric 1; gate go-$ASSAY_RUN_NUMBER";
  home.series("s", {{"a", script}, {"b", script}, {"c", script}, {"d", script}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(home.assay({"add", "s/a", "--priority", "5"}).code == 0);
  const fs::path order = home.folder / "gates" / "order";
  REQUIRE(eventually([&] { return count_lines(order) == 2; }));
  const json status = json::parse(home.assay({"status", "--json"}).out);
  int running = 0;
  for (const json& run : status) running += run.at("state") == "running" || run.at("state") == "starting";
  CHECK(running == 2);
  CHECK(status.at(4).at("waits_for") == "a core (2 of 2 in use)");
  CHECK(status.at(2).at("waits_for") == "a core (2 of 2 in use, 1 run first)");
  home.open_gate("go-1");
  REQUIRE(eventually([&] { return count_lines(order) == 3; }));
  CHECK_THAT(slurp(order), Catch::EndsWith("5\n"));
  for (const char* number : {"2", "3", "4", "5"}) home.open_gate(std::string("go-") + number);
  CHECK(home.assay({"wait", "s"}).code == 0);
  CHECK(count_lines(order) == 5);
}

TEST_CASE("a run of two threads takes two slots") {
  const Home home("wide");
  const std::string script = "echo up >> $GATES/up; echo $OMP_NUM_THREADS >> $GATES/threads; metric 1; gate go";
  home.series("s", {{"a", script}, {"b", script}}, "\"train.threads\" = 2");
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return count_lines(home.folder / "gates" / "threads") == 1; }));
  CHECK(slurp(home.folder / "gates" / "threads") == "2\n");
  CHECK(home.state(2) == "queued");
  home.open_gate("go");
  CHECK(home.assay({"wait"}).code == 0);
}

TEST_CASE("a waiting run can be killed, and what waits for it is skipped") {
  const Home home("kill-waiting");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}, {"c", "metric 1"}});
  REQUIRE(home.assay({"add", "s/a"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1"}).code == 0);
  REQUIRE(home.assay({"add", "s/c", "--after", "2"}).code == 0);
  REQUIRE(home.assay({"kill", "2"}).code == 0);
  CHECK(home.state(2) == "killed");
  CHECK(eventually([&] { return home.state(3) == "skipped"; }));
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
}

TEST_CASE("repeating a series makes new runs and leaves the old ones as they were") {
  const Home home("repeat");
  home.series("s", {{"a", "metric 1; echo $ASSAY_RUN_NUMBER"}});
  REQUIRE(home.assay({"run", "s", "--seeds", "1,2"}).code == 0);
  const auto stamp = fs::last_write_time(fs::path(home.run(1).folder) / "exit.json");
  REQUIRE(home.assay({"run", "s", "--seeds", "1,2"}).code == 0);
  REQUIRE(home.assay({"run", "1"}).code == 0);   // a former run, as it was
  CHECK(home.run_folders().size() == 5);
  CHECK(home.run(5).config_sha256 == home.run(1).config_sha256);
  CHECK(home.run(2).config_sha256 != home.run(1).config_sha256);
  CHECK(fs::last_write_time(fs::path(home.run(1).folder) / "exit.json") == stamp);
  CHECK(slurp(fs::path(home.run(1).folder) / "stdout.log") == "1\n");
  CHECK(slurp(fs::path(home.run(5).folder) / "stdout.log") == "5\n");
  CHECK(home.run(1).batch == home.run(2).batch);
  CHECK(home.run(1).batch != home.run(3).batch);
}

TEST_CASE("the series file may change while a run waits: what was frozen counts") {
  const Home home("frozen");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s/a"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1", "--set", "train.seed=7", "--label", "why=frozen"}).code == 0);
  spill(home.folder / "series" / "s.toml", "not TOML at all [");
  home.open_gate("go");
  CHECK(home.assay({"wait", "2"}).code == 0);
  const fs::path folder = home.run(2).folder;
  CHECK(json::parse(slurp(folder / "config.json")).at("train").at("seed") == 7);
  CHECK(json::parse(slurp(folder / "run.json")).at("labels").at("why") == "frozen");
  CHECK_THAT(slurp(folder / "series.toml"), Catch::Contains("id = \"b\""));
}

TEST_CASE("many commands at once: one daemon, every run once, no reader is ever told that the database is locked") {
  const Home home("many");
  home.series("s", {{"a", "echo x >> $GATES/ran-$ASSAY_RUN_NUMBER; metric 1"}});
  std::vector<pid_t> commands;
  std::vector<std::string> names;
  for (int i = 0; i < 6; ++i) {   // no daemon yet: all of them want to start one
    names.push_back("add-" + std::to_string(i));
    commands.push_back(home.start({"add", "s", "--json", "--seeds", "1,2"}, names.back()));
    names.push_back("status-" + std::to_string(i));
    commands.push_back(home.start({"status", "--json"}, names.back()));
  }
  std::set<std::int64_t> numbers;
  for (std::size_t i = 0; i < commands.size(); ++i) {
    const Result result = home.finish(commands[i], names[i]);
    CAPTURE(names[i], result.out, result.err);
    REQUIRE(result.code == 0);
    const json reply = json::parse(result.out);
    if (reply.is_object())
      for (const json& number : reply.at("numbers")) numbers.insert(number.get<std::int64_t>());
  }
  REQUIRE(numbers.size() == 12);
  CHECK(*numbers.rbegin() == 12);
  CHECK(home.assay({"wait"}).code == 0);
  for (const std::int64_t number : numbers) {
    CHECK(home.state(number) == "succeeded");
    CHECK(count_lines(home.folder / "gates" / ("ran-" + std::to_string(number))) == 1);
  }
}
