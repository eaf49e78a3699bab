// kill -9 at any moment, a disk that is full: what was reported as written is there, and the file is whole.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::folder_name;
using assay::test::fresh_folder;
using assay::test::new_run;
using assay::test::with_runs;

namespace {

// Runs `body(report)` in a child that is killed after `time`, or when it ends by itself; the integers it reported.
std::vector<std::int64_t> killed_after(std::chrono::microseconds time,
                                       const std::function<void(const std::function<void(std::int64_t)>&)>& body) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::close(ends[0]);
    try {
      body([&](std::int64_t value) {
        if (::write(ends[1], &value, sizeof value) != sizeof value) ::_exit(3);
      });
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  std::this_thread::sleep_for(time);
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) != 0));  // an exception of its own is not what is tested
  std::vector<std::int64_t> reported;
  std::int64_t value = 0;
  while (::read(ends[0], &value, sizeof value) == sizeof value) reported.push_back(value);
  ::close(ends[0]);
  return reported;
}

std::vector<MetricPoint> ten(std::int64_t step) {
  std::vector<MetricPoint> points;
  for (int i = 0; i < 10; ++i) points.push_back({step, "m" + std::to_string(i), static_cast<double>(step)});
  return points;
}

}  // namespace

TEST_CASE("a writer killed at any moment leaves a whole registry that holds all it reported") {
  const auto file = fresh_folder("fault/kill") / "registry.sqlite";
  std::mt19937 random(20261123);
  { auto records = with_runs(file, 1); }
  std::int64_t highest = 1;
  std::uint32_t longest = 60'000;  // microseconds; grows on a machine too busy to have written anything by then
  for (int killed_while_writing = 0; killed_while_writing < 15;) {
    const auto reported = killed_after(std::chrono::microseconds(2000 + random() % longest), [&](const auto& report) {
      auto records = Registry::open(file, Registry::Access::read_write);
      for (;;) {
        const std::int64_t run = records.add_runs({new_run()}, folder_name).front();
        records.transition(run, StateKind::queued, {StateKind::starting, {}, {}, ""}, 1);
        report(run);
        for (std::int64_t step = 1; step <= 3; ++step)
          records.batch([&] {
            records.put_metrics(run, ten(step), {step, 3, {}, {}, 0});
            records.set_ingested_bytes(run, "metrics.jsonl", 100 * step);
          });
        records.put_event({run, 1, 3, "finished", "", "{}"});
        records.transition(run, StateKind::starting, {StateKind::succeeded, 0, {}, ""}, 2);
        report(-run);
      }
    });
    if (!reported.empty()) ++killed_while_writing;
    else if (longest < 10'000'000) longest += longest / 2;

    auto records = Registry::open(file, Registry::Access::read_write);
    REQUIRE(records.problems().empty());
    for (const std::int64_t value : reported) {
      const auto run = records.run(std::abs(value));
      REQUIRE(run);
      CHECK(run->attempt == 1);
      CHECK(run->folder == folder_name(run->number, new_run()));
      if (value < 0) {
        CHECK(run->state.kind == StateKind::succeeded);
        CHECK(records.metrics(run->number).size() == 30);
        CHECK(records.events(run->number).size() == 1);
      }
    }
    for (const auto& run : records.runs({})) {
      if (run.number <= highest) continue;  // looked at in an earlier round
      // Offset and rows moved together, and a batch is there whole or not at all.
      const std::int64_t bytes = records.ingested_bytes(run.number, "metrics.jsonl");
      CHECK(static_cast<std::int64_t>(records.metrics(run.number).size()) == bytes / 10);
      CHECK(records.progress(run.number).step == (bytes == 0 ? -1 : bytes / 100));
    }
    if (!reported.empty()) CHECK(std::abs(reported.back()) > highest);  // numbers are not reused
    for (const auto& run : records.runs({})) highest = std::max(highest, run.number);
  }
}

TEST_CASE("ingest that was killed and begins again ends with the same rows") {
  const auto folder = fresh_folder("fault/replay");
  const auto whole = [&](Registry& records) {
    for (std::int64_t step = 0; step < 50; ++step) {
      records.put_metrics(1, ten(step), {step, 50, {}, {}, 0});
      records.put_event({1, static_cast<double>(step), step, "no_gradient", "", "{}"});
    }
    records.put_evaluation(1, {50, 1, 1, 1, 1, "q", "q", "d", {{0, "correct", true, true, true}}});
  };
  auto once = with_runs(folder / "once.sqlite", 1);
  whole(once);
  const auto file = folder / "killed.sqlite";
  { auto records = with_runs(file, 1); }
  std::mt19937 random(5);
  for (int round = 0; round < 5; ++round)
    killed_after(std::chrono::microseconds(3000 + random() % 30'000), [&](const auto&) {
      auto records = Registry::open(file, Registry::Access::read_write);
      whole(records);
    });
  auto again = Registry::open(file, Registry::Access::read_write);
  whole(again);
  const auto a = once.metrics(1), b = again.metrics(1);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK((a[i].step == b[i].step && a[i].key == b[i].key && a[i].value == b[i].value));
  CHECK(once.events(1).size() == again.events(1).size());
  CHECK(again.evaluations(1, true).size() == 1);
  CHECK(again.evaluations(1, true)[0].outcomes.size() == 1);
  CHECK(again.problems().empty());
}

TEST_CASE("a registry whose making is killed is there whole or not at all") {
  std::mt19937 random(11);
  for (int round = 0; round < 15; ++round) {
    const auto file = fresh_folder("fault/make") / "registry.sqlite";
    killed_after(std::chrono::microseconds(random() % 20'000),
                 [&](const auto&) { Registry::open(file, Registry::Access::read_write); });
    auto records = Registry::open(file, Registry::Access::read_write);
    CHECK(records.problems().empty());
    CHECK(records.runs({}).empty());
  }
}

TEST_CASE("a full disk is one sentence, and the registry is as before") {
  const auto file = fresh_folder("fault/full") / "registry.sqlite";
  { auto records = with_runs(file, 1); }
  const auto size = static_cast<rlim_t>(std::filesystem::file_size(file));
  const auto reported = killed_after(std::chrono::seconds(3), [&](const auto& report) {
    auto records = Registry::open(file, Registry::Access::read_write);
    records.put_metrics(1, ten(1), {});
    // No file of this process may grow past this: write(2) fails as on a full disk.
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit {size, size};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      for (std::int64_t step = 2;; ++step) records.put_document(1, "d" + std::to_string(step), std::string(20'000, 'x'));
    } catch (const std::runtime_error& error) {
      report(std::string(error.what()).starts_with(file.string() + ": ") ? 1 : 0);
    }
  });
  REQUIRE(reported == std::vector<std::int64_t>{1});
  auto records = Registry::open(file, Registry::Access::read_write);
  CHECK(records.problems().empty());
  CHECK(records.metrics(1).size() == 10);
}
