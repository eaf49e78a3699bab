// The scheduler alone: chosen cases, and random event sequences against a simple model.
#include "runner/scheduler.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "catch.h"

using namespace assay::runner;

namespace {

Job job(std::int64_t number, int cores = 1, std::int64_t priority = 0, std::set<std::int64_t> after = {}) {
  return {number, cores, priority, std::move(after)};
}

std::vector<std::int64_t> starts(const std::vector<Action>& actions) {
  std::vector<std::int64_t> numbers;
  for (const Action& action : actions)
    if (const auto* start = std::get_if<action::Start>(&action)) numbers.push_back(start->number);
  return numbers;
}

using Numbers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("two one-core runs go side by side on two cores, the third waits for an end") {
  Queue queue;
  CHECK(starts(advance(queue, event::Submitted{{job(1), job(2), job(3)}, {}}, 2)) == Numbers{1, 2});
  CHECK(queue.used == 2);
  CHECK(waits(queue, 2).at(3) == "a core (2 of 2 in use)");
  CHECK(starts(advance(queue, event::Ended{1, true}, 2)) == Numbers{3});
  CHECK(waits(queue, 2).empty());
}

TEST_CASE("higher priority goes first, then the lower number") {
  Queue queue;
  advance(queue, event::Submitted{{job(1)}, {}}, 1);
  advance(queue, event::Submitted{{job(2), job(3, 1, 5), job(4, 1, 5), job(5, 1, -1)}, {}}, 1);
  Numbers order;
  for (std::int64_t running = 1;;) {
    const Numbers next = starts(advance(queue, event::Ended{running, true}, 1));
    if (next.empty()) break;
    REQUIRE(next.size() == 1);
    order.push_back(running = next[0]);
  }
  CHECK(order == Numbers{3, 4, 2, 5});
}

TEST_CASE("a wide run is not overtaken, and one wider than the machine takes all of it") {
  Queue queue;
  advance(queue, event::Submitted{{job(1)}, {}}, 2);
  CHECK(starts(advance(queue, event::Submitted{{job(2, 16), job(3)}, {}}, 2)).empty());
  CHECK(waits(queue, 2).at(2) == "2 cores (1 of 2 in use)");
  CHECK(waits(queue, 2).at(3) == "a core (1 of 2 in use, 1 run first)");
  CHECK(starts(advance(queue, event::Ended{1, false}, 2)) == Numbers{2});
  CHECK(starts(advance(queue, event::Ended{2, true}, 2)) == Numbers{3});
}

TEST_CASE("a run waits for the success of others") {
  Queue queue;
  const auto actions = advance(queue, event::Submitted{{job(1), job(2), job(3, 1, 9, {1, 2})}, {}}, 2);
  CHECK(std::find(actions.begin(), actions.end(), Action{action::Block{3, 1}}) != actions.end());
  CHECK(waits(queue, 2).at(3) == "runs 1, 2");
  CHECK(starts(advance(queue, event::Ended{1, true}, 2)).empty());
  CHECK(waits(queue, 2).at(3) == "run 2");
  CHECK(advance(queue, event::Ended{2, true}, 2) == std::vector<Action>{action::Unblock{3}, action::Start{3}});
}

TEST_CASE("when one does not succeed, all that wait for it are skipped, directly or not") {
  Queue queue;
  advance(queue, event::Submitted{{job(1), job(2, 1, 0, {1}), job(3, 1, 0, {2}), job(4, 1, 0, {9})}, {9}}, 1);
  CHECK(queue.entries.count(4) == 0);
  const auto actions = advance(queue, event::Ended{1, false}, 1);
  CHECK(actions == std::vector<Action>{action::Skip{2, 1}, action::Skip{3, 2}});
  CHECK(queue.entries.empty());
  CHECK(queue.waiting_for.empty());
}

TEST_CASE("runs found running at the daemon's start take their slots before any other starts") {
  Queue queue;
  CHECK(advance(queue, event::Active{job(1)}, 2).empty());
  CHECK(advance(queue, event::Active{job(2)}, 2).empty());
  CHECK(starts(advance(queue, event::Submitted{{job(3)}, {}}, 2)).empty());
  CHECK(starts(advance(queue, event::Ended{2, true}, 2)) == Numbers{3});
  CHECK(advance(queue, event::Ended{2, true}, 2).empty());  // told twice: nothing
}

// The model: a list of jobs with a state each, everything found by looking through it all.
namespace {

enum class Model { blocked, waiting, active, succeeded, failed, skipped };

struct ModelJob {
  Job job;
  std::set<std::int64_t> left;   // dependencies not yet succeeded
  Model state;
};

class Simple {
 public:
  explicit Simple(int capacity) : capacity_(capacity) {}

  void submit(const Job& job) {
    ModelJob entry{job, {}, Model::waiting};
    for (const std::int64_t on : job.after) {
      const Model other = jobs.at(on).state;
      if (other == Model::failed || other == Model::skipped) entry.state = Model::skipped;
      else if (other != Model::succeeded) entry.left.insert(on);
    }
    if (entry.state == Model::waiting && !entry.left.empty()) entry.state = Model::blocked;
    jobs[job.number] = entry;
  }

  void end(std::int64_t number, bool good) {
    jobs.at(number).state = good ? Model::succeeded : Model::failed;
    for (bool again = true; again;) {
      again = false;
      for (auto& [other, entry] : jobs) {
        if (entry.state != Model::blocked) continue;
        for (const std::int64_t on : std::set<std::int64_t>(entry.left)) {
          const Model state = jobs.at(on).state;
          if (state == Model::succeeded) entry.left.erase(on);
          if (state == Model::failed || state == Model::skipped) {
            entry.state = Model::skipped;
            again = true;
          }
        }
        if (entry.state == Model::blocked && entry.left.empty()) entry.state = Model::waiting;
      }
    }
  }

  Numbers start() {
    Numbers started;
    for (;;) {
      ModelJob* first = nullptr;
      for (auto& [number, entry] : jobs)
        if (entry.state == Model::waiting && (first == nullptr || entry.job.priority > first->job.priority)) first = &entry;
      if (first == nullptr || used() + slots(first->job) > capacity_) return started;
      first->state = Model::active;
      started.push_back(first->job.number);
    }
  }

  int slots(const Job& job) const { return std::min(std::max(job.cores, 1), capacity_); }
  int used() const {
    int sum = 0;
    for (const auto& [number, entry] : jobs)
      if (entry.state == Model::active) sum += slots(entry.job);
    return sum;
  }

  std::map<std::int64_t, ModelJob> jobs;

 private:
  int capacity_;
};

}  // namespace

TEST_CASE("random event sequences: as the model says, never over capacity, nothing lost, nothing started twice") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    const auto up_to = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
    const int capacity = 1 + up_to(5);
    Queue queue;
    Simple model(capacity);
    std::int64_t next = 1;
    std::set<std::int64_t> started, skipped;

    const auto check = [&](const std::vector<Action>& actions) {
      const Numbers expected = model.start();
      REQUIRE(starts(actions) == expected);
      for (const std::int64_t number : expected) REQUIRE(started.insert(number).second);
      for (const Action& action : actions)
        if (const auto* skip = std::get_if<action::Skip>(&action)) REQUIRE(skipped.insert(skip->number).second);
      REQUIRE(queue.used == model.used());
      REQUIRE(queue.used <= capacity);
      std::size_t open = 0;
      for (const auto& [number, entry] : model.jobs) {
        const bool in_queue = queue.entries.count(number) != 0;
        const bool unfinished =
            entry.state == Model::blocked || entry.state == Model::waiting || entry.state == Model::active;
        REQUIRE(in_queue == unfinished);
        REQUIRE((skipped.count(number) != 0) == (entry.state == Model::skipped));
        open += unfinished ? 1 : 0;
      }
      REQUIRE(queue.entries.size() == open);
    };

    for (int turn = 0; turn < 120; ++turn) {
      std::vector<std::int64_t> active;
      for (const auto& [number, entry] : model.jobs)
        if (entry.state == Model::active) active.push_back(number);
      if (active.empty() || up_to(2) == 0) {
        event::Submitted submitted;
        for (int n = 1 + up_to(3); n > 0; --n) {
          Job added = job(next, 1 + up_to(7), up_to(3) - 1);
          for (int d = up_to(3); d > 0 && next > 1; --d) added.after.insert(1 + up_to(static_cast<int>(next) - 1));
          model.submit(added);
          for (const std::int64_t on : std::set<std::int64_t>(added.after)) {
            const Model state = model.jobs.at(on).state;
            if (state == Model::succeeded) added.after.erase(on);
            if (state == Model::failed || state == Model::skipped) submitted.failed.insert(on);
          }
          submitted.jobs.push_back(added);
          ++next;
        }
        check(advance(queue, submitted, capacity));
      } else {
        const std::int64_t number = active[static_cast<std::size_t>(up_to(static_cast<int>(active.size())))];
        const bool good = up_to(4) != 0;
        model.end(number, good);
        check(advance(queue, event::Ended{number, good}, capacity));
      }
    }
    // No starvation: once nothing new comes, everything that is left gets its turn.
    while (!queue.entries.empty()) {
      std::int64_t running = 0;
      for (const auto& [number, entry] : queue.entries)
        if (entry.place == Queue::Place::active) running = number;
      REQUIRE(running != 0);
      model.end(running, true);
      check(advance(queue, event::Ended{running, true}, capacity));
    }
    REQUIRE(queue.waiting_for.empty());
    REQUIRE(queue.order.empty());
    REQUIRE(queue.used == 0);
  }
}
