// Scheduling as users see it, with real daemons, supervisors and shell-script trainers. Test cases named "no …" are the
// lines of the design's "what hurts users of the existing tools" that concern the queue.
#include <set>

#include "home.h"
#include "runner/attempts.h"

using namespace assay;
using namespace assay::test;

namespace {

std::string waits_for(const Home& home, std::int64_t number) {
  for (const json& run : json::parse(home.assay({"status", "--all", "--json"}).out))
    if (run.at("number") == number && !run.at("waits_for").is_null()) return run.at("waits_for");
  return "";
}

std::vector<std::string> lines_of(const fs::path& file) {
  std::istringstream text(slurp(file));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("a group's limit is kept by the daemon, across its death") {
  const Home home("group");
  home.series("s", {{"a", "metric 1; gate go-a"}, {"b", "metric 1; gate go-b"}, {"c", "metric 1"}});
  REQUIRE(home.assay({"group", "gpu", "1"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "a,b", "--group", "gpu"}).code == 0);
  REQUIRE(eventually([&] { return home.state(1) == "running"; }));
  home.kill_daemon();
  CHECK(waits_for(home, 2) == "group gpu (1 of 1 running)");
  REQUIRE(home.assay({"run", "s", "--only", "c"}).code == 0);   // nobody else is held back
  CHECK_THAT(home.assay({"group"}).out, Catch::Contains("gpu"));
  REQUIRE(home.assay({"group", "gpu", "none"}).code == 0);
  REQUIRE(eventually([&] { return home.state(2) == "running"; }));
  home.open_gate("go-a");
  home.open_gate("go-b");
  CHECK(home.assay({"wait"}).code == 0);
  CHECK(home.assay({"group", "gpu", "two"}).code == 2);
}

TEST_CASE("--after-any waits for an end, whatever it is") {
  const Home home("after-any");
  home.series("s", {{"bad", "gate go; exit 1"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s/bad"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after-any", "1"}).code == 0);
  CHECK(waits_for(home, 2) == "the end of run 1");
  home.kill_daemon();
  home.open_gate("go");
  CHECK(home.assay({"wait", "2"}).code == 0);
  CHECK(home.state(1) == "failed");
}

TEST_CASE("GPUs are given by index and told to the trainer; memory is counted; what can never be given is refused") {
  Home home("resources");
  home.environment["ASSAY_GPUS"] = "2,5";
  home.environment["ASSAY_MEMORY"] = "1000";
  const std::string script = "echo $CUDA_VISIBLE_DEVICES >> $GATES/gpus; metric 1; gate go-$ASSAY_RUN_NUMBER";
  home.series("s", {{"a", script}, {"b", script}, {"c", script}}, "\"schedule.gpus\" = 1");
  home.series("m", {{"d", "metric 1; gate go"}}, "\"schedule.memory\" = 800");
  REQUIRE(home.assay({"add", "s"}).code == 0);
  const fs::path seen = home.folder / "gates" / "gpus";
  REQUIRE(eventually([&] { return count_lines(seen) == 2; }));
  const auto lines = lines_of(seen);
  CHECK(std::set<std::string>(lines.begin(), lines.end()) == std::set<std::string>{"2", "5"});
  // The next daemon knows who has which.
  home.kill_daemon();
  home.environment["ASSAY_SLOTS"] = "4";
  CHECK(waits_for(home, 3) == "a GPU (2 of 2 in use)");
  const std::string first = slurp(seen).substr(0, 1);
  home.open_gate("go-1");
  REQUIRE(eventually([&] { return count_lines(seen) == 3; }));
  CHECK(runner::read_launch(home.run(3).folder).gpus == runner::read_launch(home.run(1).folder).gpus);
  REQUIRE(home.assay({"add", "m"}).code == 0);
  REQUIRE(eventually([&] { return home.state(4) == "running"; }));
  REQUIRE(home.assay({"add", "m"}).code == 0);
  CHECK(waits_for(home, 5) == "800 MiB of memory (800 of 1000 given away)");
  for (const auto& [key, words] : std::map<std::string, std::string>{
           {"schedule.gpus=3", "it needs 3 GPUs, and the daemon may give 2 (started with ASSAY_GPUS=2,5); lower"},
           {"schedule.memory=2000", "it needs 2000 MiB of memory, and the daemon may give 1000 (started with ASSAY_MEMORY=1000); lower"},
           {"train.threads=64", "it needs 64 cores, and the daemon may give 4 (started with ASSAY_SLOTS=4); lower"}}) {
    const Result refused = home.assay({"add", "s/a", "--set", key});
    CHECK(refused.code == 3);
    CHECK(one_sentence(refused.err));
    CHECK_THAT(refused.err, Catch::Contains(words));
  }
  const Result ranks = home.assay({"add", "s/a", "--set", "train.device=cuda", "--set", "train.ranks=3"});
  CHECK(ranks.code == 3);
  CHECK_THAT(ranks.err, Catch::Contains("it needs 3 GPUs, and the daemon may give 2 (started with ASSAY_GPUS=2,5); lower"));  // one a rank
  for (const char* gate : {"go-2", "go-3", "go"}) home.open_gate(gate);
  CHECK(home.assay({"wait"}).code == 0);
}

TEST_CASE("no infrastructure failure looks like a failure of the code, and each has retries of its own") {
  const Home home("retry");
  home.series("s",
              {{"machine", "echo x >> $GATES/machine; metric $ASSAY_ATTEMPT; "
                           "[ $ASSAY_ATTEMPT -ge 3 ] || kill -9 $$"},
               {"code", "echo x >> $GATES/code; metric 1; exit 7"},
               {"oom", "metric 1; exit 137"}},
              "\"schedule.retry.infrastructure\" = 2, \"schedule.retry.code\" = 1, \"schedule.retry.backoff\" = 0.05");
  CHECK(home.assay({"run", "s", "--only", "machine"}).code == 0);
  CHECK(count_lines(home.folder / "gates" / "machine") == 3);
  const auto attempts = home.registry().attempts(1);
  REQUIRE(attempts.size() == 3);
  CHECK(attempts[0].state.fault == "infrastructure");
  CHECK(attempts[0].state.signal == 9);
  CHECK(registry::name(attempts[2].state.kind) == std::string("succeeded"));
  // Each attempt began from nothing, and what the former ones wrote is kept.
  const auto metrics = home.registry().metrics(1);
  REQUIRE(metrics.size() == 1);
  CHECK(metrics[0].step == 3);
  for (const char* file : {"attempts/0001/metrics.jsonl", "attempts/0001/exit.json", "attempts/0002/stdout.log"})
    CHECK(fs::exists(fs::path(home.run(1).folder) / file));

  CHECK(home.assay({"run", "s", "--only", "code"}).code == 4);
  CHECK(count_lines(home.folder / "gates" / "code") == 2);
  CHECK(home.run(2).state.fault == "code");
  CHECK(home.assay({"run", "s", "--only", "oom"}).code == 4);
  CHECK(home.run(3).attempt == 3);
  CHECK_THAT(home.assay({"status", "--all"}).out, Catch::Contains("failed (infrastructure, exit code 137)"));
  CHECK_THAT(home.assay({"status", "--all"}).out, Catch::Contains("failed (exit code 7)"));
}

TEST_CASE("a retry waits for its time, says so, and survives the daemon; a kill ends it") {
  const Home home("retry-wait");
  home.series("s", {{"a", "metric 1; exit 75"}},
              "\"schedule.retry.infrastructure\" = 5, \"schedule.retry.backoff\" = 3000");
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return home.state(1) == "queued" && home.run(1).attempt == 1; }));
  CHECK_THAT(waits_for(home, 1), Catch::StartsWith("its next try, in "));
  home.kill_daemon();
  CHECK_THAT(waits_for(home, 1), Catch::StartsWith("its next try, in "));
  CHECK(home.run(1).attempt == 1);
  REQUIRE(home.assay({"kill", "1"}).code == 0);
  CHECK(home.state(1) == "killed");
}

TEST_CASE("a stalled run is ended and tried again") {
  const Home home("retry-stalled");
  home.series("s", {{"a", "metric 1; [ $ASSAY_ATTEMPT -ge 2 ] || sleep 600"}},
              "\"schedule.stall_timeout\" = 1, \"schedule.retry.stalled\" = 1, \"schedule.retry.backoff\" = 0");
  CHECK(home.assay({"run", "s"}).code == 0);
  CHECK(home.registry().attempts(1).at(0).state.fault == "stalled");
}

TEST_CASE("pause holds a waiting run back, and resume lets it go") {
  const Home home("pause-waiting");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s/a"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1"}).code == 0);
  REQUIRE(home.assay({"pause", "2"}).code == 0);
  home.open_gate("go");
  REQUIRE(home.assay({"wait", "1"}).code == 0);
  REQUIRE(eventually([&] { return waits_for(home, 2) == "`assay resume 2`"; }));
  home.kill_daemon();
  CHECK(waits_for(home, 2) == "`assay resume 2`");
  REQUIRE(home.assay({"resume", "2"}).code == 0);
  CHECK(home.assay({"wait", "2"}).code == 0);
}

TEST_CASE("pause stops a running run where it is, whatever its trainer can do; resume lets it go on") {
  const Home home("pause-stop");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go; metric 2"}, {"b", "metric 1; touch $GATES/up-b; gate never"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up") && fs::exists(home.folder / "gates" / "up-b"); }));
  const auto trainer_state = [&](std::int64_t number) {
    const auto record = runner::read_supervisor(home.run(number).folder);
    REQUIRE((record && record->trainer.pid != 0));
    const std::string stat = slurp("/proc/" + std::to_string(record->trainer.pid) + "/stat");
    const auto bracket = stat.rfind(") ");   // behind the name, which may hold anything
    return bracket == std::string::npos ? '-' : stat.at(bracket + 2);
  };
  REQUIRE(home.assay({"pause", "1", "2"}).code == 0);
  REQUIRE(eventually([&] { return trainer_state(1) == 'T' && trainer_state(2) == 'T'; }, 600));
  CHECK(home.state(1) == "running");   // it keeps what it has
  home.open_gate("go");
  home.kill_daemon();
  REQUIRE(home.assay({"status"}).code == 0);   // the next daemon leaves it stopped
  CHECK(trainer_state(1) == 'T');
  CHECK(count_lines(fs::path(home.run(1).folder) / "metrics.jsonl") == 1);
  REQUIRE(home.assay({"resume", "1"}).code == 0);
  CHECK(home.assay({"wait", "1"}).code == 0);
  CHECK(home.run(1).attempt == 1);
  CHECK(home.registry().metrics(1).size() == 2);
  CHECK(trainer_state(2) == 'T');
  CHECK(home.assay({"kill", "2", "--grace", "60"}).code == 0);   // a stopped one hears of SIGTERM at once
  CHECK(home.state(2) == "killed");
}

TEST_CASE("pause to a checkpoint frees what the run had; resume goes on from it") {
  const Home home("pause-checkpoint");
  home.series("s", {{"a",
                     "echo resume=$ASSAY_RESUME >> $GATES/told; metric $ASSAY_ATTEMPT\n"
                     "trap 'mkdir -p $ASSAY_RUN_DIR/checkpoints/step-000001; exit 5' TERM\n"
                     "[ $ASSAY_RESUME = 1 ] || { touch $GATES/up; while :; do sleep 0.05; done; }"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  REQUIRE(home.assay({"pause", "1", "--checkpoint"}).code == 0);
  REQUIRE(eventually([&] { return home.state(1) == "queued"; }));
  CHECK(waits_for(home, 1) == "`assay resume 1`");
  CHECK(json::parse(home.assay({"daemon", "status", "--json"}).out).at("used") == 0);
  home.kill_daemon();
  REQUIRE(home.assay({"resume", "1"}).code == 0);
  CHECK(home.assay({"wait", "1"}).code == 0);
  CHECK(slurp(home.folder / "gates" / "told") == "resume=0\nresume=1\n");
  CHECK(home.registry().metrics(1).size() == 2);   // what was there before it is still its own
  CHECK(home.run(1).attempt == 2);
}

TEST_CASE("restart: an ended run under its own number, from its checkpoint or --fresh; a success stays as it is") {
  const Home home("restart");
  home.series("s", {{"a", "echo $ASSAY_RESUME >> $GATES/a; metric $ASSAY_ATTEMPT; mkdir -p $ASSAY_RUN_DIR/checkpoints/step-000001\n"
                          "[ -e $GATES/good ]"},
                    {"b", "metric 1"}});
  REQUIRE(home.assay({"run", "s/a"}).code == 4);
  REQUIRE(home.assay({"run", "s/b", "--after", "1"}).code == 4);
  CHECK(home.state(2) == "skipped");
  REQUIRE(home.assay({"restart", "1", "--fresh"}).code == 0);
  CHECK(home.assay({"wait", "1"}).code == 4);
  CHECK_THAT(home.assay({"restart", "2"}).err, Catch::Contains("type `assay restart 1 2`"));
  home.open_gate("good");
  REQUIRE(home.assay({"restart", "1", "2"}).code == 0);
  CHECK(home.assay({"wait", "1", "2"}).code == 0);
  CHECK(slurp(home.folder / "gates" / "a") == "0\n0\n1\n");
  CHECK(home.run(1).attempt == 3);
  const Result refused = home.assay({"restart", "1"});
  CHECK(refused.code == 3);
  CHECK_THAT(refused.err, Catch::Contains("has succeeded"));
}

TEST_CASE("edit: priority, group, dependencies and configuration of a run that waits") {
  const Home home("edit");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "echo $2 > $GATES/seen; metric 1"}});
  REQUIRE(home.assay({"add", "s/a"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1"}).code == 0);
  CHECK(home.assay({"edit", "2", "--priority", "7", "--group", "g", "--set", "train.steps=3"}).code == 0);
  registry::RunRow row = home.run(2);
  CHECK(row.priority == 7);
  CHECK(row.group == "g");
  CHECK(json::parse(row.config_json).at("train").at("steps") == 3);
  CHECK(slurp(fs::path(row.folder) / "config.json") == row.config_json);
  CHECK(slurp(fs::path(row.folder) / "config.sha256") == row.config_sha256 + "\n");
  CHECK(json::parse(slurp(fs::path(row.folder) / "run.json")).at("edited").at(0).at("set").at(0) == "train.steps=3");
  CHECK((fs::status(fs::path(row.folder) / "config.json").permissions() & fs::perms::owner_write) == fs::perms::none);
  CHECK_FALSE(fs::exists(fs::path(row.folder) / "edit.json"));
  CHECK_THAT(home.assay({"edit", "2", "--set", "train.stepz=3"}).err, Catch::Contains("did you mean 'train.steps'?"));
  CHECK(home.assay({"edit", "2"}).code == 2);
  CHECK_THAT(home.assay({"edit", "1", "--priority", "1"}).err, Catch::Contains("only a run that has not started"));
  REQUIRE(home.assay({"add", "s/b", "--after", "2"}).code == 0);
  CHECK_THAT(home.assay({"edit", "2", "--after", "3"}).err, Catch::Contains("it would wait for itself (3 waits for 2)"));
  REQUIRE(home.assay({"edit", "2", "--no-after"}).code == 0);
  CHECK(home.assay({"wait", "2", "3"}).code == 0);
  CHECK(home.state(1) == "running");
  home.open_gate("go");
  CHECK(home.assay({"wait"}).code == 0);
}

TEST_CASE("an edit that was cut off is finished by the next daemon") {
  const Home home("edit-cut");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s/a"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1", "--set", "train.steps=5"}).code == 0);
  home.kill_daemon();
  const registry::RunRow row = home.run(2), wanted = home.run(3);
  spill(fs::path(row.folder) / "edit.json", json{{"config", wanted.config_json}, {"config_sha256", wanted.config_sha256},
                                                 {"derived", wanted.derived_json}, {"run", row.run_json}}.dump());
  home.open_gate("go");
  CHECK(home.assay({"wait"}).code == 0);
  CHECK(home.state(2) == "succeeded");
  CHECK(home.run(2).config_sha256 == wanted.config_sha256);
}

TEST_CASE("below the disk reserve nothing starts, and status says why") {
  Home home("disk");
  home.environment["ASSAY_DISK_RESERVE"] = "900000000";
  home.series("s", {{"a", "metric 1"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return waits_for(home, 1).find("disk space (") == 0; }));
  CHECK_THAT(home.assay({"status"}).out, Catch::Contains("nothing starts on this machine: disk space"));
  home.kill_daemon();
  home.environment["ASSAY_DISK_RESERVE"] = "0";
  CHECK(home.assay({"wait", "1"}).code == 0);
}

TEST_CASE("clean takes ended runs out of the short listing and deletes checkpoints; no failed run vanishes") {
  const Home home("clean");
  home.series("s", {{"a", "metric 1; mkdir -p $ASSAY_RUN_DIR/checkpoints/step-000001; head -c 100000 /dev/zero > "
                          "$ASSAY_RUN_DIR/checkpoints/step-000001/x; exit 1"}});
  REQUIRE(home.assay({"run", "s"}).code == 4);
  CHECK(json::parse(home.assay({"clean", "--json"}).out).at("numbers") == json{1});
  CHECK(json::parse(home.assay({"status", "--json"}).out).empty());
  CHECK(json::parse(home.assay({"status", "--all", "--json"}).out).size() == 1);
  CHECK(json::parse(home.assay({"status", "s", "--json"}).out).size() == 1);
  CHECK(json::parse(home.assay({"clean", "1", "--checkpoints", "--json"}).out).at("freed_bytes") == 100000);
  CHECK_FALSE(fs::exists(fs::path(home.run(1).folder) / "checkpoints"));
  CHECK(home.registry().metrics(1).size() == 1);
}

TEST_CASE("clean keeps the checkpoints of a run that something rests on, and says why") {
  const Home home("clean-cited");
  const std::string script = "metric 1; mkdir -p $ASSAY_RUN_DIR/checkpoints/step-000001; head -c 1000 /dev/zero > "
                             "$ASSAY_RUN_DIR/checkpoints/step-000001/x";
  home.series("s", {{"a", script}, {"b", script}, {"c", script}, {"d", script}});
  const fs::path file = home.folder / "series" / "s.toml";
  std::string text = slurp(file);   // b is compared with a
  text.replace(text.find("id = \"b\"\nbaseline = \"\""), 22, "id = \"b\"\nbaseline = \"a\"");
  spill(file, text + "[[cause]]\nname = \"noise\"\nrun = \"b\"\nagainst = \"a\"\n");
  REQUIRE(home.assay({"run", "s"}).code == 0);
  REQUIRE(home.assay({"verdict", "3", "it holds"}).code == 0);
  const Result cleaned = home.assay({"clean", "--checkpoints", "--json"});
  REQUIRE(cleaned.code == 0);
  CHECK(json::parse(cleaned.out).at("freed_bytes") == 1000);
  const auto kept = [&](std::int64_t number) { return fs::exists(fs::path(home.run(number).folder) / "checkpoints" / "step-000001" / "x"); };
  CHECK(kept(1));
  CHECK(kept(2));
  CHECK(kept(3));
  CHECK_FALSE(kept(4));
  const Result named = home.assay({"clean", "3", "--checkpoints"});
  CHECK_THAT(named.err, Catch::Contains("run 3: its checkpoints stay: a verdict speaks of it"));
  CHECK(kept(3));
}

TEST_CASE("no queue restarts empty: a registry that cannot be read is refused, and not touched") {
  const Home home("not-empty");
  home.series("s", {{"a", "metric 1; gate go"}});
  REQUIRE(home.assay({"add", "s", "--seeds", "1,2,3,4"}).code == 0);
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  const fs::path file = home.data() / "registry.sqlite";
  for (const char* extra : {"-wal", "-shm"}) fs::remove(file.string() + extra);
  const std::string whole = slurp(file);
  for (const std::string& broken : {std::string(), std::string("not a database at all"), whole.substr(0, 50)}) {
    spill(file, broken);
    const Result refused = home.assay({"add", "s"});
    CHECK(refused.code != 0);
    CHECK(one_sentence(refused.err));
    CHECK(slurp(file) == broken);
  }
  spill(file, whole);
  home.open_gate("go");
  CHECK(home.assay({"wait"}).code == 0);
  CHECK(home.registry().runs({}).size() == 4);
}

TEST_CASE("no run is executed twice after the queue restarts") {
  const Home home("not-twice");
  home.series("s", {{"a", "echo x >> $GATES/ran-$ASSAY_RUN_NUMBER; metric 1; sleep 0.1"}});
  REQUIRE(home.assay({"add", "s", "--seeds", "1,2,3,4,5,6,7,8"}).code == 0);
  for (int kills = 0; kills < 4; ++kills) {
    home.kill_daemon();
    REQUIRE(home.assay({"status"}).code == 0);
  }
  CHECK(home.assay({"wait"}).code == 0);
  for (int number = 1; number <= 8; ++number) {
    CHECK(count_lines(home.folder / "gates" / ("ran-" + std::to_string(number))) == 1);
    CHECK(home.run(number).attempt == 1);
  }
}

TEST_CASE("no stop marks a run completed: what was ended is killed, whatever its exit code") {
  const Home home("not-completed");
  home.series("s", {{"a", "trap 'exit 0' TERM; metric 1; touch $GATES/up; while :; do sleep 0.05; done"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  REQUIRE(home.assay({"kill", "1"}).code == 0);
  CHECK(home.state(1) == "killed");
  CHECK(home.run(1).state.exit_code == 0);
}

TEST_CASE("no code changes unseen between enqueue and start") {
  const Home home("code-changes");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s/a"}).code == 0);
  REQUIRE(home.assay({"add", "s/b", "--after", "1"}).code == 0);
  std::ofstream(home.folder / "scripts" / "s-b.sh", std::ios::app) << "true # edited\n";
  home.open_gate("go");
  CHECK(home.assay({"wait", "2"}).code == 0);
  bool said = false;
  for (const registry::Event& event : home.registry().events(2)) said |= event.message.find("s-b.sh") != std::string::npos;
  CHECK(said);
}
