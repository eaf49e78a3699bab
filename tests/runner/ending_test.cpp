// How a run can end, each by a real trainer (a shell script) under a real daemon and supervisor.
#include "home.h"

using namespace assay;
using namespace assay::test;

TEST_CASE("a trainer that ends with 0 and has written metrics has succeeded") {
  const Home home("success");
  home.series("s", {{"a", "echo hello; echo oops >&2; metric 1; metric 2"}});
  const Result result = home.assay({"run", "s"});
  REQUIRE(result.code == 0);
  const registry::RunRow row = home.run(1);
  CHECK(registry::name(row.state.kind) == std::string("succeeded"));
  CHECK(row.attempt == 1);
  CHECK(row.ended >= row.started);
  CHECK(slurp(fs::path(row.folder) / "stdout.log") == "hello\n");
  CHECK(slurp(fs::path(row.folder) / "stderr.log") == "oops\n");
  CHECK(home.registry().metrics(1).size() == 2);
  CHECK(home.registry().progress(1).step == 2);
  CHECK(home.registry().progress(1).score == 0.5);
  // Frozen before the start.
  for (const char* file : {"run.json", "config.json", "config.sha256", "derived.json", "series.toml", "code.json",
                           "environment.json", "inputs.json"}) {
    CAPTURE(file);
    const fs::path path = fs::path(row.folder) / file;
    REQUIRE(fs::exists(path));
    CHECK((fs::status(path).permissions() & fs::perms::owner_write) == fs::perms::none);
  }
  CHECK(fs::path(row.folder).filename() == "000001-a-s1");
  CHECK(json::parse(slurp(fs::path(row.folder) / "run.json")).at("number") == 1);
  CHECK(slurp(fs::path(row.folder) / "config.json") == row.config_json);
  CHECK(json::parse(slurp(fs::path(row.folder) / "exit.json")).at("kind") == "exited");
}

TEST_CASE("a trainer that fails: exit code and last line of stderr") {
  const Home home("failure");
  home.series("s", {{"a", "metric 1; echo first >&2; printf '\\033[31mlast words\\033[0m\\n\\n' >&2; exit 7"}});
  const Result result = home.assay({"run", "s"});
  CHECK(result.code == 4);
  CHECK_THAT(result.err, Catch::Contains("failed (exit code 7): last words"));
  const registry::RunRow row = home.run(1);
  CHECK(row.state.exit_code == 7);
  CHECK(row.state.detail == "last words");
}

TEST_CASE("exit code 0 alone is no success") {
  const Home home("nothing-written");
  home.series("s", {{"a", "true"}});
  CHECK(home.assay({"run", "s"}).code == 4);
  CHECK(home.state(1) == "failed");
  CHECK_THAT(home.run(1).state.detail, Catch::Contains("wrote no line"));
}

TEST_CASE("a trainer killed by a signal") {
  const Home home("signal");
  home.series("s", {{"a", "metric 1; kill -9 $$"}});
  CHECK(home.assay({"run", "s"}).code == 4);
  CHECK(home.state(1) == "failed");
  CHECK(home.run(1).state.signal == 9);
}

TEST_CASE("a program that is not there any more when its turn comes") {
  const Home home("gone");
  const fs::path program = home.folder / "scripts" / "own";
  spill(program, "#!/bin/sh\ntrue\n");
  fs::permissions(program, fs::perms::owner_all);
  home.series("s", {{"a", "metric 1; gate go"}});
  spill(home.folder / "series" / "t.toml", "[series]\nid = \"t\"\n[base.trainer]\nkind = \"command\"\nargv = [\"" +
                                               program.string() + "\"]\n[[run]]\nid = \"b\"\n");
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(home.assay({"add", "t", "--after", "1"}).code == 0);
  fs::remove(program);
  home.open_gate("go");
  CHECK(home.assay({"wait", "1", "2"}).code == 4);
  CHECK(home.state(2) == "failed");
  CHECK_THAT(home.run(2).state.detail, Catch::Contains("cannot be started"));
}

TEST_CASE("a config that was changed after it was frozen is not started") {
  const Home home("tampered");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "b", "--after", "1"}).code == 0);
  const fs::path config = fs::path(home.run(2).folder) / "config.json";
  const std::string text = slurp(config);
  fs::remove(config);
  spill(config, text + " ");
  home.open_gate("go");
  CHECK(home.assay({"wait", "2"}).code == 4);
  CHECK_THAT(home.run(2).state.detail, Catch::Contains("config.sha256"));
}

TEST_CASE("kill ends the trainer and everything it started, also what ignores SIGTERM or left its group") {
  const Home home("kill");
  home.series("s", {{"a",
                     "trap '' TERM\n"
                     "echo $$ > $GATES/trainer\n"
                     "sh -c 'trap \"\" TERM; echo $$ > '$GATES'/child; while :; do sleep 0.1; done' &\n"
                     "setsid sh -c 'trap \"\" TERM; echo $$ > '$GATES'/stray; while :; do sleep 0.1; done' &\n"
                     "metric 1; while :; do sleep 0.1; done"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  const fs::path gates = home.folder / "gates";
  for (const char* name : {"trainer", "child", "stray"}) REQUIRE(eventually([&] { return lives(gates / name); }));
  const Result result = home.assay({"kill", "1", "--grace", "0.3"});
  CHECK(result.code == 0);
  CHECK_THAT(result.out, Catch::Contains("killed by "));
  CHECK(home.state(1) == "killed");
  for (const char* name : {"trainer", "child", "stray"}) CHECK_FALSE(lives(gates / name));
  CHECK(home.assay({"wait", "1"}).code == 4);
  CHECK_THAT(home.assay({"kill", "1"}).out, Catch::Contains("has already ended"));
}

TEST_CASE("a killed trainer that ends cleanly is killed, not failed, and has its time to end") {
  const Home home("kill-clean");
  home.series("s", {{"a", "trap 'metric 2; exit 5' TERM\nmetric 1; touch $GATES/up; while :; do sleep 0.05; done"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  REQUIRE(home.assay({"kill", "a"}).code == 0);
  CHECK(home.state(1) == "killed");
  CHECK(home.run(1).state.exit_code == 5);
  CHECK(home.registry().progress(1).step == 2);   // its last line is in before the state is final
}

TEST_CASE("what a trainer leaves behind is ended with it, and does not change how it ended") {
  const Home home("leftover");
  home.series("s", {{"a", "setsid sh -c 'echo $$ > '$GATES'/stray; sleep 600' >/dev/null 2>&1 &\n"
                          "while [ ! -s $GATES/stray ]; do sleep 0.02; done; metric 1"}});
  CHECK(home.assay({"run", "s"}).code == 0);
  CHECK(home.state(1) == "succeeded");
  CHECK_FALSE(lives(home.folder / "gates" / "stray"));
}

TEST_CASE("the time limit") {
  const Home home("limit");
  home.series("s", {{"a", "metric 1; sleep 600"}}, "\"schedule.time_limit\" = 0.5");
  CHECK(home.assay({"run", "s"}).code == 4);
  CHECK(home.state(1) == "killed");
  CHECK(home.run(1).state.detail == "the time limit of 0.5 s");
}

TEST_CASE("no new metrics line for stall_timeout: stalled; a slow trainer that goes on is left alone") {
  const Home home("stall");
  home.series("s", {{"a", "metric 1; sleep 600"}, {"b", "for i in 1 2 3 4 5 6 7 8; do metric $i; sleep 0.4; done"}},
              "\"schedule.stall_timeout\" = 2");
  CHECK(home.assay({"run", "s"}).code == 4);
  CHECK(home.state(1) == "stalled");
  CHECK(home.run(1).state.detail == "no new metrics line for 2 s");
  CHECK(home.state(2) == "succeeded");
}
