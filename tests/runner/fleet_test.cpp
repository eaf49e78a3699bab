// The daemon's runs without the daemon: Fleet on an io_context of the test's, with the real executor and real processes.
#include "runner/fleet.h"

#include <fcntl.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <cstdlib>

#include "home.h"
#include "registry/journal.h"
#include "runner/submit.h"

using namespace assay;
using namespace assay::test;
using registry::StateKind;
using std::chrono::milliseconds;

namespace {

// What a Fleet needs, in this process.
struct World {
  explicit World(const Home& home) {
    ::setenv("ASSAY_HOME", home.environment.at("ASSAY_HOME").c_str(), 1);
    ::setenv("ASSAY_EXPERIMENTS", home.environment.at("ASSAY_EXPERIMENTS").c_str(), 1);
    paths = runner::user_paths();
    for (const fs::path& folder : {paths.data, paths.state, paths.runs(), paths.series()}) runner::make_folder(folder);
    log = runner::Fd(::open((paths.state / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  }
  runner::Prepared prepared(const std::string& run) const {
    runner::SubmitOptions options;
    options.what.words = {"b/" + run};
    runner::Prepared prepared = runner::prepare(paths, options);
    REQUIRE(prepared.submissions.size() == 1);
    return prepared;
  }

  runner::Paths paths;
  runner::Fd log;
  const std::shared_ptr<spdlog::logger> silent =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::null_sink_mt>());
};

// One run of a series until it has ended: the states that were recorded, as they came.
struct Course {
  std::vector<StateKind> states;
  registry::RunRow row;
  std::vector<registry::Attempt> attempts;
};

Course course_of(const Home& home, const std::string& run, milliseconds briefest, const std::function<void(StateKind)>& seen = {}) {
  const World world(home);
  auto registry = registry::Registry::open(world.paths.registry(), registry::Registry::Access::read_write);
  const runner::Prepared prepared = world.prepared(run);

  Course course;
  asio::io_context io;
  runner::Resources resources;
  resources.briefest = briefest;
  runner::Fleet fleet(io, registry, world.paths, resources, world.log.get(), world.silent, [&](std::int64_t number) {
    const StateKind now = registry.run(number).value().state.kind;
    if (!course.states.empty() && course.states.back() == now) return;
    course.states.push_back(now);
    if (seen) seen(now);
  });
  fleet.restore([] {});
  const std::int64_t number = fleet.submit(prepared.submissions[0]).at(0);
  REQUIRE(eventually([&] {
    io.restart();
    io.run_for(milliseconds(10));
    return is_final(registry.run(number).value().state.kind);
  }));
  CHECK(fleet.active() == 0);
  course.row = registry.run(number).value();
  course.attempts = registry.attempts(number);
  return course;
}

std::vector<StateKind> written_states(const fs::path& folder) {
  int bad = 0;
  std::vector<StateKind> kinds;
  for (const registry::StateLine& line : registry::read_states(folder, bad)) kinds.push_back(line.state.kind);
  CHECK(bad == 0);
  return kinds;
}

// In the registry, in states.jsonl from which it can be rebuilt, and in the supervisor's record.
void check_times(const Course& course) {
  const auto exit = runner::read_exit(course.row.folder);
  REQUIRE(exit);
  REQUIRE(course.attempts.size() == 1);
  CHECK(course.row.created > 0);
  CHECK(course.row.started >= course.row.created);
  CHECK(exit->started >= course.row.started);
  CHECK(exit->ended >= exit->started);
  CHECK(course.row.ended == exit->ended);
  CHECK(course.attempts[0].started == course.row.started);
  CHECK(course.attempts[0].ended == course.row.ended);
  CHECK(course.attempts[0].state.kind == course.row.state.kind);

  int bad = 0;
  registry::RunRow again;
  const auto attempts = registry::replay_states(registry::read_states(course.row.folder, bad), again);
  CHECK(again.state.kind == course.row.state.kind);
  CHECK(again.state.exit_code == course.row.state.exit_code);
  CHECK(again.started == course.row.started);
  CHECK(again.ended == course.row.ended);
  REQUIRE(attempts.size() == 1);
  CHECK(attempts[0].started == course.row.started);
  CHECK(attempts[0].ended == course.row.ended);
}

}  // namespace

TEST_CASE("a run that is over sooner than briefest is never recorded as running, and has its times all the same") {
  const Home home("briefest-short");
  home.series("b", {{"well", "metric 1\nsleep 0.1"}, {"badly", "exit 3"}});   // the first longer than the 10 ms of the daemon
  // However slow this machine is: nothing here runs for a day.
  const Course well = course_of(home, "well", std::chrono::hours(24));
  CHECK(well.states == std::vector{StateKind::queued, StateKind::starting, StateKind::succeeded});
  CHECK(written_states(well.row.folder) == well.states);
  check_times(well);
  const Course badly = course_of(home, "badly", std::chrono::hours(24));
  CHECK(badly.states == std::vector{StateKind::queued, StateKind::starting, StateKind::failed});
  CHECK(written_states(badly.row.folder) == badly.states);
  CHECK(badly.row.state.exit_code == 3);
  check_times(badly);
}

TEST_CASE("a run that is not over by then is recorded as running while it runs") {
  CHECK(runner::Resources().briefest == milliseconds(10));
  const Home home("briefest-long");
  home.series("b", {{"long", "metric 1\ngate go"}});
  // It ends when it has been seen running, and not before.
  const Course course = course_of(home, "long", runner::Resources().briefest, [&](StateKind now) {
    if (now == StateKind::running) home.open_gate("go");
  });
  CHECK(course.states == std::vector{StateKind::queued, StateKind::starting, StateKind::running, StateKind::succeeded});
  CHECK(written_states(course.row.folder) == course.states);
  check_times(course);
}

TEST_CASE("an end and the start that it makes room for are one transaction; a start that fails does not hold up the end") {
  const Home home("end-and-start");
  home.series("b", {{"one", "metric 1"}});
  const World world(home);
  auto registry = registry::Registry::open(world.paths.registry(), registry::Registry::Access::read_write);
  const runner::Prepared prepared = world.prepared("one");
  std::map<std::int64_t, StateKind> last;
  std::map<std::int64_t, StateKind> beside;   // what the next run was when this one was first told to have ended
  asio::io_context io;
  runner::Fleet fleet(io, registry, world.paths, runner::Resources(), world.log.get(), world.silent, [&](std::int64_t number) {
    last[number] = registry.run(number).value().state.kind;
    const auto next = registry.run(number + 1);
    if (is_final(last[number]) && next) beside.emplace(number, next->state.kind);
  });
  fleet.restore([] {});
  const auto until = [&](const std::function<bool()>& condition) {
    return eventually([&] {
      io.restart();
      io.run_for(milliseconds(10));
      return condition();
    });
  };
  const auto edit = [&](std::int64_t number, const std::string& config) {
    registry::RunEdit change;
    change.config = registry::RunEdit::Config{config, registry.run(number)->config_sha256, registry.run(number)->derived_json, "{}"};
    registry.edit_run(number, change);
  };
  for (int i = 0; i < 4; ++i) fleet.submit(prepared.submissions[0]);   // one slot: one after the other
  const std::string config = registry.run(3).value().config_json;
  edit(3, "{}");   // of which the daemon can make nothing
  REQUIRE(until([&] { return last[2] == StateKind::succeeded; }));
  CHECK(beside.at(1) == StateKind::starting);
  CHECK(beside.at(2) == StateKind::queued);
  CHECK(registry.attempts(3).empty());
  CHECK(fleet.active() == 0);
  edit(3, config);
  REQUIRE(until([&] { return last[4] == StateKind::succeeded; }));
  CHECK(beside.at(3) == StateKind::starting);
  for (std::int64_t number = 1; number <= 4; ++number) {
    INFO("run " << number);
    CHECK(written_states(registry.run(number)->folder).back() == StateKind::succeeded);
    CHECK(registry.attempts(number).size() == 1);
    CHECK(fs::exists(fs::path(registry.run(number)->folder) / "exit.json"));
  }
}
