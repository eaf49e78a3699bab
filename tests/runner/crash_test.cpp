// The crash contract: whatever is killed, no run is lost, none is started twice.
#include <random>

#include "home.h"

using namespace assay;
using namespace assay::test;

TEST_CASE("kill -9 of the daemon in the middle of a series, then any command: it finishes, each run once") {
  const Home home("daemon-killed");
  const std::string script = "echo x >> $GATES/ran-$ASSAY_RUN_NUMBER; metric 1; gate go; metric 2";
  home.series("s", {{"a", script}, {"b", script}, {"c", script}, {"d", script}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  const fs::path gates = home.folder / "gates";
  REQUIRE(eventually([&] { return count_lines(gates / "ran-1") == 1 && count_lines(gates / "ran-2") == 1; }));
  home.kill_daemon();
  // Nothing of it needs the daemon: the two that run end on their own.
  home.open_gate("go");
  const std::vector<fs::path> folders = home.run_folders();
  REQUIRE(folders.size() == 4);
  REQUIRE(eventually([&] { return fs::exists(folders[0] / "exit.json") && fs::exists(folders[1] / "exit.json"); }));
  CHECK_FALSE(fs::exists(gates / "ran-3"));

  REQUIRE(home.assay({"status"}).code == 0);
  CHECK(home.assay({"wait", "s"}).code == 0);
  for (int number = 1; number <= 4; ++number) {
    CAPTURE(number);
    CHECK(home.state(number) == "succeeded");
    CHECK(home.run(number).attempt == 1);
    CHECK(count_lines(gates / ("ran-" + std::to_string(number))) == 1);
    CHECK(home.registry().metrics(number).size() == 2);
  }
}

TEST_CASE("a living run is adopted: it can be followed and killed by the next daemon") {
  const Home home("adopted");
  home.series("s", {{"a", "metric 1; touch $GATES/up; while :; do sleep 0.05; done"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  home.kill_daemon();
  REQUIRE(home.assay({"kill", "1"}).code == 0);
  CHECK(home.state(1) == "killed");
  CHECK(home.run(1).attempt == 1);
}

TEST_CASE("the daemon is killed again and again at random moments") {
  const Home home("chaos");
  const std::string script = "echo x >> $GATES/ran-$ASSAY_RUN_NUMBER; metric 1; sleep 0.1; metric 2";
  std::vector<std::pair<std::string, std::string>> scripts;
  for (int i = 0; i < 12; ++i) scripts.emplace_back("r" + std::to_string(i), script);
  home.series("s", scripts);
  REQUIRE(home.assay({"add", "s"}).code == 0);
  std::mt19937 random(20261123);
  for (int round = 0; round < 10; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 200));
    if (home.daemon_pid()) home.kill_daemon();
    REQUIRE(home.assay({"status"}).code == 0);
  }
  CHECK(home.assay({"wait", "s"}).code == 0);
  for (int number = 1; number <= 12; ++number) {
    CAPTURE(number);
    CHECK(home.state(number) == "succeeded");
    CHECK(count_lines(home.folder / "gates" / ("ran-" + std::to_string(number))) == 1);
    CHECK(home.registry().metrics(number).size() == 2);
  }
  CHECK(home.registry().problems().empty());
}

TEST_CASE("kill -9 of the supervisor: the run is lost, and nothing of it goes on") {
  const Home home("supervisor-killed");
  home.series("s", {{"a",
                     "echo $$ > $GATES/trainer\n"
                     "setsid sh -c 'echo $$ > '$GATES'/stray; sleep 600' &\n"
                     "metric 1; gate never"},
                    {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "b", "--after", "1"}).code == 0);
  const fs::path gates = home.folder / "gates";
  REQUIRE(eventually([&] { return lives(gates / "trainer") && lives(gates / "stray") && home.state(1) == "running"; }));
  const auto record = runner::read_supervisor(home.run(1).folder);
  REQUIRE(record);
  REQUIRE(runner::signal_process(runner::open_process(record->supervisor), SIGKILL));
  CHECK(home.assay({"wait", "1", "2"}).code == 4);
  CHECK(home.state(1) == "lost");
  CHECK(home.state(2) == "skipped");
  CHECK(home.run(2).state.detail == "run 1 did not succeed");
  CHECK(eventually([&] { return !lives(gates / "trainer") && !lives(gates / "stray"); }));
}

TEST_CASE("the supervisor is killed while no daemon is there") {
  const Home home("both-killed");
  home.series("s", {{"a", "metric 1; echo $$ > $GATES/trainer; gate never"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return lives(home.folder / "gates" / "trainer"); }));
  home.kill_daemon();
  const auto record = runner::read_supervisor(home.run_folders().at(0));
  REQUIRE(record);
  REQUIRE(runner::signal_process(runner::open_process(record->supervisor), SIGKILL));
  CHECK(home.assay({"wait", "1"}).code == 4);
  CHECK(home.state(1) == "lost");
  CHECK(home.registry().metrics(1).size() == 1);
}

TEST_CASE("a record of another boot or another process is never taken for a living supervisor") {
  const Home home("identity");
  const fs::path folder = home.folder / "run";
  fs::create_directories(folder);
  const auto self = runner::identify(::getpid());
  REQUIRE(self);
  CHECK(runner::open_process(*self));
  runner::write_supervisor(folder, {*self, {}, ""});
  CHECK(runner::inspect(folder) == runner::Condition::alive);
  runner::Identity other = *self;
  other.start_time += 1;   // the number was reused
  CHECK_FALSE(runner::open_process(other));
  runner::write_supervisor(folder, {other, {}, ""});
  CHECK(runner::inspect(folder) == runner::Condition::lost);
  other = *self;
  other.boot_id = "00000000-0000-0000-0000-000000000000";
  runner::write_supervisor(folder, {other, {}, ""});
  CHECK(runner::inspect(folder) == runner::Condition::lost);
  runner::write_exit(folder, {"exited", 0, {}, "", "", 1, 2});
  CHECK(runner::inspect(folder) == runner::Condition::ended);
}

TEST_CASE("a daemon that died between recording the start and starting: the next one starts the run, once") {
  const Home home("cut-off");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "echo x >> $GATES/ran; metric 1"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "b", "--after", "1"}).code == 0);
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  {
    auto registry = registry::Registry::open(home.data() / "registry.sqlite", registry::Registry::Access::read_write);
    REQUIRE(registry.transition(2, registry::StateKind::blocked, {registry::StateKind::starting, {}, {}, ""}, 1));
  }
  REQUIRE(home.assay({"wait", "2"}).code == 0);
  CHECK(count_lines(home.folder / "gates" / "ran") == 1);
  CHECK(home.run(2).attempt == 1);
  // A supervisor that comes late finds that the run has had its own.
  REQUIRE(home.assay({"supervise", home.run(2).folder}).code == 0);
  CHECK(count_lines(home.folder / "gates" / "ran") == 1);
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
}

TEST_CASE("two supervisors at once: one runs the trainer") {
  const Home home("two-supervisors");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "echo x >> $GATES/ran; metric 1; gate go"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "b", "--after", "1"}).code == 0);
  const std::string folder = home.run(2).folder;
  const pid_t first = home.start({"supervise", folder}, "first");
  const pid_t second = home.start({"supervise", folder}, "second");
  REQUIRE(eventually([&] { return count_lines(home.folder / "gates" / "ran") == 1; }));
  home.open_gate("go");
  home.finish(first, "first");
  home.finish(second, "second");
  CHECK(count_lines(home.folder / "gates" / "ran") == 1);
  // The daemon, when the run's turn comes, finds it ended and does not start it again.
  CHECK(home.assay({"wait", "1", "2"}).code == 0);
  CHECK(count_lines(home.folder / "gates" / "ran") == 1);
}

TEST_CASE("a folder that a cut-off submission left is replaced, one that was used is not") {
  const Home home("leftover-folder");
  home.series("s", {{"a", "metric 1"}});
  REQUIRE(home.assay({"status"}).code == 0);
  const fs::path leftover = home.data() / "runs" / "s" / "000001-a-s1";
  spill(leftover / "config.json", "half");
  CHECK(home.assay({"run", "s"}).code == 0);
  const fs::path used = home.data() / "runs" / "s" / "000002-a-s1";
  spill(used / "metrics.jsonl", "{}\n");
  const Result refused = home.assay({"run", "s"});
  CHECK(refused.code == 1);
  CHECK(one_sentence(refused.err));
  CHECK(slurp(used / "metrics.jsonl") == "{}\n");
  CHECK_FALSE(home.registry().run(2));
}

TEST_CASE("a run's supervisor is assay-supervise as the daemon found it, and assay-cli where there was none") {
  const Home home("supervisor-program");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1; gate go"}, {"c", "metric 1; gate go"}});
  const fs::path programs = home.folder / "bin";
  fs::create_directories(programs);
  for (const char* name : {"assay", "assay-cli", "assay-supervise"})
    fs::create_hard_link(Home::program().parent_path() / name, programs / name);
  const auto start_daemon = [&] {
    const std::string command = "ASSAY_HOME='" + home.data().string() + "' ASSAY_SLOTS=3 '" + (programs / "assay").string() +
                                "' status > /dev/null";
    REQUIRE(std::system(command.c_str()) == 0);
  };
  const auto supervisor_of = [&](const std::string& run, std::int64_t number) {
    REQUIRE(home.assay({"add", "s", "--only", run}).code == 0);
    REQUIRE(eventually([&] { return home.state(number) == "running"; }));
    const auto record = runner::read_supervisor(home.run(number).folder);
    REQUIRE(record);
    return fs::read_symlink("/proc/" + std::to_string(record->supervisor.pid) + "/exe").filename().string();
  };
  start_daemon();
  CHECK(supervisor_of("a", 1) == "assay-supervise");
  fs::remove(programs / "assay-supervise");
  CHECK(supervisor_of("b", 2) == "assay-supervise (deleted)");
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  start_daemon();
  CHECK(supervisor_of("c", 3) == "assay-cli");
  home.open_gate("go");
  CHECK(home.assay({"wait", "1", "2", "3"}).code == 0);
}
