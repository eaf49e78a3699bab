// What keeps a run's processes together: a PID namespace where it can be had, a subreaper elsewhere.
#include "home.h"

using namespace assay;
using namespace assay::test;

namespace {

// A trainer that leaves a daemon of its own behind (out of its group and session, ignoring SIGTERM), then waits.
const char* const kScattering =
    "echo $$ > $GATES/trainer\n"
    "(setsid sh -c 'trap \"\" TERM; echo $$ > '$GATES'/stray; while :; do sleep 0.1; done' >/dev/null 2>&1 &)\n"
    "metric 1; touch $GATES/up; gate go";

bool namespaces_here() {
  return std::system("unshare --pid --mount --fork --mount-proc true 2>/dev/null || "
                     "unshare --user --map-current-user --pid --mount --fork --mount-proc true 2>/dev/null") == 0;
}

runner::SupervisorRecord supervisor_of(const Home& home, std::int64_t number) {
  std::optional<runner::SupervisorRecord> record;
  REQUIRE(eventually([&] {
    record = runner::read_supervisor(home.run(number).folder);
    return record && record->trainer.pid != 0;
  }));
  return *record;
}

}  // namespace

TEST_CASE("supervisor.json says how the run is kept together") {
  Home home("isolation");
  home.series("s", {{"a", kScattering}});
  if (!namespaces_here()) return report_skipped("isolation", "PID namespaces are not allowed here");
  REQUIRE(home.assay({"add", "s"}).code == 0);
  CHECK(supervisor_of(home, 1).isolation == "pid-namespace");
  // Its own /proc: a program that looks itself up there finds itself.
  home.series("t", {{"b", "test \"$(cut -d' ' -f1 /proc/$$/stat)\" = $$ && test -r /proc/1/comm && metric 1"}});
  REQUIRE(home.assay({"run", "t"}).code == 0);
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
}

TEST_CASE("two runs at once do not have the same process numbers, which would make the same names under /tmp") {
  const Home home("numbers");
  home.series("s", {{"a", "echo $$ > $GATES/a; metric 1; gate go"}, {"b", "echo $$ > $GATES/b; metric 1; gate go"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  const fs::path gates = home.folder / "gates";
  REQUIRE(eventually([&] { return count_lines(gates / "a") == 1 && count_lines(gates / "b") == 1; }));
  CHECK(slurp(gates / "a") != slurp(gates / "b"));
  home.open_gate("go");
  CHECK(home.assay({"wait", "s"}).code == 0);
}

TEST_CASE("kill -9 of supervisor and init together, with either isolation: nothing of the run goes on") {
  for (const char* isolation : {"", "none"}) {
    CAPTURE(isolation);
    Home home(std::string("both-killed-") + isolation);
    home.environment["ASSAY_ISOLATION"] = isolation;
    home.series("s", {{"a", kScattering}});
    REQUIRE(home.assay({"add", "s"}).code == 0);
    const fs::path gates = home.folder / "gates";
    REQUIRE(eventually([&] { return lives(gates / "trainer") && lives(gates / "stray") && home.state(1) == "running"; }));
    const auto record = supervisor_of(home, 1);
    if (*isolation != '\0') CHECK(record.isolation == "none: ASSAY_ISOLATION is none");
    home.kill_daemon();
    // All at once, as the kernel does when memory runs out: the supervisor, and its children.
    const std::string children = slurp("/proc/" + std::to_string(record.supervisor.pid) + "/task/" +
                                       std::to_string(record.supervisor.pid) + "/children");
    REQUIRE(runner::signal_process(runner::open_process(record.supervisor), SIGSTOP));
    std::istringstream numbers(children);
    for (pid_t child; numbers >> child;) {
      const auto identity = runner::identify(child);
      REQUIRE(identity);
      REQUIRE(runner::signal_process(runner::open_process(*identity), SIGKILL));
    }
    REQUIRE(runner::signal_process(runner::open_process(record.supervisor), SIGKILL));
    // The next daemon finds what is left, if anything is, by the run folder in its environment.
    CHECK(home.assay({"wait", "1"}).code == 4);
    CHECK(home.state(1) == "lost");
    CHECK_FALSE(lives(gates / "trainer"));
    CHECK_FALSE(lives(gates / "stray"));
  }
}

TEST_CASE("kill -9 of the supervisor alone: what it kept together ends without any daemon") {
  for (const char* isolation : {"", "none"}) {
    CAPTURE(isolation);
    Home home(std::string("one-killed-") + isolation);
    home.environment["ASSAY_ISOLATION"] = isolation;
    home.series("s", {{"a", kScattering}});
    REQUIRE(home.assay({"add", "s"}).code == 0);
    const fs::path gates = home.folder / "gates";
    REQUIRE(eventually([&] { return lives(gates / "trainer") && lives(gates / "stray"); }));
    const auto record = supervisor_of(home, 1);
    home.kill_daemon();
    REQUIRE(runner::signal_process(runner::open_process(record.supervisor), SIGKILL));
    CHECK(eventually([&] { return !lives(gates / "trainer") && !lives(gates / "stray"); }));
  }
}

TEST_CASE("kill -9 of the init: the run has failed, and nothing of it goes on") {
  for (const char* isolation : {"", "none"}) {
    CAPTURE(isolation);
    Home home(std::string("init-killed-") + isolation);
    home.environment["ASSAY_ISOLATION"] = isolation;
    home.series("s", {{"a", kScattering}});
    REQUIRE(home.assay({"add", "s"}).code == 0);
    const fs::path gates = home.folder / "gates";
    REQUIRE(eventually([&] { return lives(gates / "trainer") && lives(gates / "stray"); }));
    const auto record = supervisor_of(home, 1);
    const auto init = runner::identify(std::stoi(slurp("/proc/" + std::to_string(record.supervisor.pid) + "/task/" +
                                                       std::to_string(record.supervisor.pid) + "/children")));
    REQUIRE(init);
    REQUIRE(runner::signal_process(runner::open_process(*init), SIGKILL));
    CHECK(home.assay({"wait", "1"}).code == 4);
    CHECK(home.state(1) == "failed");
    CHECK(home.run(1).state.signal == SIGKILL);
    CHECK_FALSE(lives(gates / "trainer"));
    CHECK_FALSE(lives(gates / "stray"));
  }
}

TEST_CASE("without namespaces a kill and what a trainer leaves behind are dealt with all the same") {
  Home home("plain");
  home.environment["ASSAY_ISOLATION"] = "none";
  home.series("s", {{"a", kScattering}, {"b", "metric 1; exit 3"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  const fs::path gates = home.folder / "gates";
  REQUIRE(eventually([&] { return lives(gates / "trainer") && lives(gates / "stray"); }));
  REQUIRE(home.assay({"kill", "1", "--grace", "0.3"}).code == 0);
  CHECK(home.state(1) == "killed");
  CHECK_FALSE(lives(gates / "trainer"));
  CHECK_FALSE(lives(gates / "stray"));
  fs::remove(gates / "stray");
  fs::remove(gates / "up");
  home.open_gate("go");
  REQUIRE(home.assay({"run", "s", "--only", "a"}).code == 0);   // ends by itself; its stray ignores SIGTERM
  CHECK_FALSE(lives(gates / "stray"));
  CHECK(home.assay({"run", "s", "--only", "b"}).code == 4);
  CHECK(home.run(3).state.exit_code == 3);
}

TEST_CASE("a machine that was started anew: the run is lost, and says so") {
  const Home home("reboot");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--only", "b", "--after", "1"}).code == 0);
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  // Run 2 as the last boot left it: started, its supervisor known, no record of its end.
  runner::SupervisorRecord record = supervisor_of(home, 1);
  record.supervisor.boot_id = "00000000-0000-0000-0000-000000000000";
  {
    auto registry = registry::Registry::open(home.data() / "registry.sqlite", registry::Registry::Access::read_write);
    REQUIRE(registry.transition(2, registry::StateKind::blocked, {registry::StateKind::starting, {}, {}, ""}, 1));
    REQUIRE(registry.transition(2, registry::StateKind::starting, {registry::StateKind::running, {}, {}, ""}, 1));
    runner::write_supervisor(registry.run(2)->folder, record);
  }
  CHECK(home.assay({"wait", "2"}).code == 4);
  CHECK(home.state(2) == "lost");
  CHECK_THAT(home.run(2).state.detail, Catch::Contains("started anew"));
  // The process that has that number today was not touched.
  record = supervisor_of(home, 1);
  CHECK(runner::open_process(record.supervisor));
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
}
