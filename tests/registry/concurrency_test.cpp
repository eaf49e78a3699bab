// Several connections at once: threads here, as each has a connection of its own it is the same as processes.
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::fresh_folder;
using assay::test::with_runs;

namespace {

// Failures are collected: Catch's macros belong to the main thread.
class Errors {
 public:
  template <typename Body>
  std::thread run(Body body) {
    return std::thread([this, body] {
      try {
        body();
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex_);
        errors_.push_back(error.what());
      }
    });
  }
  std::vector<std::string> all() const { return errors_; }

 private:
  std::mutex mutex_;
  std::vector<std::string> errors_;
};

std::vector<MetricPoint> ten(std::int64_t step) {
  std::vector<MetricPoint> points;
  for (int i = 0; i < 10; ++i) points.push_back({step, "m" + std::to_string(i), 1.0 * static_cast<double>(step)});
  return points;
}

}  // namespace

TEST_CASE("a reader never waits for the writer, and sees whole batches only") {
  const auto file = fresh_folder("concurrency/reader") / "registry.sqlite";
  auto writer = with_runs(file, 1);
  Errors errors;
  std::atomic<bool> done{false};
  std::atomic<int> reads{0}, torn{0}, backwards{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i)
    readers.push_back(errors.run([&] {
      std::size_t before = 0;
      while (!done) {
        auto reader = Registry::open(file, Registry::Access::read_only);
        for (int j = 0; j < 20 && !done; ++j, ++reads) {
          const std::size_t now = reader.metrics(1).size();
          if (now % 10 != 0) ++torn;
          if (now < before) ++backwards;
          before = now;
          reader.runs({});
        }
      }
    }));
  for (int step = 0; step < 200; ++step) writer.put_metrics(1, ten(step), {step, 200, {}, {}, 0});
  // A reader is answered in the middle of a write that is held open.
  writer.batch([&] {
    writer.put_metrics(1, ten(200), {});
    const int before = reads;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (reads < before + 5 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    CHECK(reads >= before + 5);
  });
  done = true;
  for (auto& reader : readers) reader.join();
  CHECK(errors.all().empty());
  CHECK(torn == 0);
  CHECK(backwards == 0);
  CHECK(writer.metrics(1).size() == 2010);
}

TEST_CASE("two writers wait for each other") {
  const auto file = fresh_folder("concurrency/writers") / "registry.sqlite";
  auto records = with_runs(file, 3);
  Errors errors;
  std::vector<std::thread> writers;
  for (std::int64_t run = 1; run <= 3; ++run)
    writers.push_back(errors.run([&, run] {
      auto writer = Registry::open(file, Registry::Access::read_write);
      for (int step = 0; step < 60; ++step) writer.put_metrics(run, ten(step), {});
    }));
  records.batch([&] { std::this_thread::sleep_for(std::chrono::milliseconds(200)); });
  for (auto& writer : writers) writer.join();
  CHECK(errors.all() == std::vector<std::string>{});
  for (std::int64_t run = 1; run <= 3; ++run) CHECK(records.metrics(run).size() == 600);
  CHECK(records.problems().empty());
}

TEST_CASE("of many that would start a run, one does") {
  const auto file = fresh_folder("concurrency/start") / "registry.sqlite";
  auto records = with_runs(file, 20);
  Errors errors;
  std::atomic<int> won{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.push_back(errors.run([&] {
      auto own = Registry::open(file, Registry::Access::read_write);
      for (std::int64_t run = 1; run <= 20; ++run)
        if (own.transition(run, StateKind::queued, {StateKind::starting, {}, {}, ""}, 1)) ++won;
    }));
  for (auto& thread : threads) thread.join();
  CHECK(errors.all().empty());
  CHECK(won == 20);
  for (std::int64_t run = 1; run <= 20; ++run) CHECK(records.run(run)->attempt == 1);
}
