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

// One run of a series until it has ended: the states that were recorded, as they came.
struct Course {
  std::vector<StateKind> states;
  registry::RunRow row;
  std::vector<registry::Attempt> attempts;
};

Course course_of(const Home& home, const std::string& run, milliseconds briefest, const std::function<void(StateKind)>& seen = {}) {
  ::setenv("ASSAY_HOME", home.environment.at("ASSAY_HOME").c_str(), 1);
  ::setenv("ASSAY_EXPERIMENTS", home.environment.at("ASSAY_EXPERIMENTS").c_str(), 1);
  const runner::Paths paths = runner::user_paths();
  for (const fs::path& folder : {paths.data, paths.state, paths.runs(), paths.series()}) runner::make_folder(folder);
  auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_write);
  const runner::Fd log(::open((paths.state / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  runner::SubmitOptions options;
  options.what.words = {"b/" + run};
  const runner::Prepared prepared = runner::prepare(paths, options);
  REQUIRE(prepared.submissions.size() == 1);

  Course course;
  asio::io_context io;
  runner::Resources resources;
  resources.briefest = briefest;
  runner::Fleet fleet(io, registry, paths, resources, log.get(),
                      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::null_sink_mt>()),
                      [&](std::int64_t number) {
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
