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
  Job made;
  made.number = number;
  made.series = "s";
  made.demand.cores = cores;
  made.priority = priority;
  made.after = std::move(after);
  return made;
}

Queue queue_of(int cores, std::int64_t memory = 1000, std::set<int> gpus = {}) {
  Queue queue;
  queue.machine = {cores, memory, std::move(gpus), {}, {}, {}};
  return queue;
}

std::vector<std::int64_t> starts(const std::vector<Action>& actions) {
  std::vector<std::int64_t> numbers;
  for (const Action& action : actions)
    if (const auto* start = std::get_if<action::Start>(&action)) numbers.push_back(start->number);
  return numbers;
}

template <typename T>
bool has(const std::vector<Action>& actions, const T& action) {
  return std::find(actions.begin(), actions.end(), Action{action}) != actions.end();
}

using Numbers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("two one-core runs go side by side on two cores, the third waits for an end") {
  Queue queue = queue_of(2);
  CHECK(starts(advance(queue, event::Submitted{{job(1), job(2), job(3)}, {}}, 0)) == Numbers{1, 2});
  CHECK(queue.cores_used == 2);
  CHECK(waits(queue, 0).at(3) == "a core (2 of 2 in use)");
  CHECK(starts(advance(queue, event::Ended{1, true}, 0)) == Numbers{3});
  CHECK(waits(queue, 0).empty());
}

TEST_CASE("higher priority goes first, then the lower number") {
  Queue queue = queue_of(1);
  advance(queue, event::Submitted{{job(1)}, {}}, 0);
  advance(queue, event::Submitted{{job(2), job(3, 1, 5), job(4, 1, 5), job(5, 1, -1)}, {}}, 0);
  Numbers order;
  for (std::int64_t running = 1;;) {
    const Numbers next = starts(advance(queue, event::Ended{running, true}, 0));
    if (next.empty()) break;
    REQUIRE(next.size() == 1);
    order.push_back(running = next[0]);
  }
  CHECK(order == Numbers{3, 4, 2, 5});
}

TEST_CASE("a wide run is not overtaken; one wider than the machine is passed over and says so") {
  Queue queue = queue_of(2);
  advance(queue, event::Submitted{{job(1)}, {}}, 0);
  CHECK(starts(advance(queue, event::Submitted{{job(2, 2), job(3)}, {}}, 0)).empty());
  CHECK(waits(queue, 0).at(2) == "2 cores (1 of 2 in use)");
  CHECK(waits(queue, 0).at(3) == "a core (1 of 2 in use, 1 run first)");
  CHECK(starts(advance(queue, event::Ended{1, false}, 0)) == Numbers{2});
  CHECK(starts(advance(queue, event::Ended{2, true}, 0)) == Numbers{3});
  CHECK(starts(advance(queue, event::Submitted{{job(4, 3), job(5)}, {}}, 0)) == Numbers{5});
  CHECK_THAT(waits(queue, 0).at(4), Catch::StartsWith("3 cores, and this machine has 2;"));
  queue.machine.cores_from = "--slots 2";
  CHECK_THAT(waits(queue, 0).at(4), Catch::StartsWith("3 cores, and the daemon may give 2 (started with --slots 2);"));
}

TEST_CASE("a run waits for the success of others") {
  Queue queue = queue_of(2);
  const auto actions = advance(queue, event::Submitted{{job(1), job(2), job(3, 1, 9, {1, 2})}, {}}, 0);
  CHECK(has(actions, action::Block{3, 1}));
  CHECK(waits(queue, 0).at(3) == "runs 1, 2");
  CHECK(starts(advance(queue, event::Ended{1, true}, 0)).empty());
  CHECK(waits(queue, 0).at(3) == "run 2");
  CHECK(advance(queue, event::Ended{2, true}, 0) == std::vector<Action>{action::Unblock{3}, action::Start{3}});
}

TEST_CASE("a run that waits for any end starts after a failure, and after a skip") {
  Queue queue = queue_of(1);
  Job third = job(3);
  third.after_any = {1, 2};
  advance(queue, event::Submitted{{job(1), job(2, 1, 0, {1}), third}, {}}, 0);
  CHECK(waits(queue, 0).at(3) == "the end of runs 1, 2");
  const auto actions = advance(queue, event::Ended{1, false}, 0);
  CHECK(has(actions, action::Skip{2, 1}));
  CHECK(starts(actions) == Numbers{3});
  CHECK(queue.waiting_for.empty());
}

TEST_CASE("when one does not succeed, all that wait for it are skipped, directly or not") {
  Queue queue = queue_of(1);
  advance(queue, event::Submitted{{job(1), job(2, 1, 0, {1}), job(3, 1, 0, {2}), job(4, 1, 0, {9})}, {9}}, 0);
  CHECK(queue.entries.count(4) == 0);
  const auto actions = advance(queue, event::Ended{1, false}, 0);
  CHECK(actions == std::vector<Action>{action::Skip{2, 1}, action::Skip{3, 2}});
  CHECK(queue.entries.empty());
  CHECK(queue.waiting_for.empty());
}

TEST_CASE("runs found running at the daemon's start take their cores and GPUs before any other starts") {
  Queue queue = queue_of(2, 1000, {0, 1});
  Job first = job(1);
  first.demand.gpus = 1;
  CHECK(advance(queue, event::Active{first, {0}}, 0).empty());
  CHECK(advance(queue, event::Active{job(2), {}}, 0).empty());
  Job third = job(3);
  third.demand.gpus = 1;
  CHECK(starts(advance(queue, event::Submitted{{third}, {}}, 0)).empty());
  CHECK(advance(queue, event::Ended{2, true}, 0) == std::vector<Action>{action::Start{3, {1}}});
  CHECK(advance(queue, event::Ended{2, true}, 0).empty());  // told twice: nothing
}

TEST_CASE("a group's limit holds its runs back and nobody else") {
  Queue queue = queue_of(4);
  advance(queue, event::Limited{"g", 1}, 0);
  Job first = job(1), second = job(2);
  first.group = second.group = "g";
  CHECK(starts(advance(queue, event::Submitted{{first, second, job(3)}, {}}, 0)) == Numbers{1, 3});
  CHECK(waits(queue, 0).at(2) == "group g (1 of 1 running)");
  CHECK(starts(advance(queue, event::Limited{"g", 2}, 0)) == Numbers{2});
  advance(queue, event::Limited{"g", 0}, 0);
  Job fourth = job(4);
  fourth.group = "g";
  CHECK(starts(advance(queue, event::Submitted{{fourth}, {}}, 0)).empty());
  CHECK(starts(advance(queue, event::Limited{"g", {}}, 0)) == Numbers{4});
}

TEST_CASE("memory and GPUs: nobody gets more than there is, GPUs by index, and who needs none goes past") {
  Queue queue = queue_of(4, 1000, {2, 5});
  Job first = job(1), second = job(2), third = job(3);
  first.demand.gpus = 2;
  second.demand.gpus = 1;
  third.demand.memory = 800;
  CHECK(advance(queue, event::Submitted{{first, second, third}, {}}, 0) ==
        std::vector<Action>{action::Start{1, {2, 5}}, action::Start{3}});
  CHECK(waits(queue, 0).at(2) == "a GPU (2 of 2 in use)");
  Job fourth = job(4);
  fourth.demand.memory = 300;
  CHECK(starts(advance(queue, event::Submitted{{fourth}, {}}, 0)).empty());
  CHECK(waits(queue, 0).at(4) == "300 MiB of memory (800 of 1000 given away, 1 run first)");
  CHECK(advance(queue, event::Ended{1, true}, 0) == std::vector<Action>{action::Start{2, {2}}});
  Job fifth = job(5);
  fifth.demand.gpus = 3;
  advance(queue, event::Submitted{{fifth}, {}}, 0);
  CHECK_THAT(waits(queue, 0).at(5), Catch::StartsWith("3 GPUs, and this machine has 2;"));
}

TEST_CASE("fair among series: a long one does not keep a short one waiting") {
  Queue queue = queue_of(2);
  std::vector<Job> jobs;
  for (std::int64_t n = 1; n <= 10; ++n) jobs.push_back(job(n));
  CHECK(starts(advance(queue, event::Submitted{jobs, {}}, 0)) == Numbers{1, 2});
  Job other = job(11), another = job(12);
  other.series = another.series = "t";
  advance(queue, event::Submitted{{other, another}, {}}, 0);
  CHECK(starts(advance(queue, event::Ended{1, true}, 0)) == Numbers{11});
  CHECK(starts(advance(queue, event::Ended{2, true}, 0)) == Numbers{3});
  CHECK(starts(advance(queue, event::Ended{11, true}, 0)) == Numbers{12});
}

TEST_CASE("a retry waits for its time, frees what it had meanwhile, and is woken by a tick") {
  Queue queue = queue_of(1);
  advance(queue, event::Submitted{{job(1), job(2)}, {}}, 100);
  CHECK(starts(advance(queue, event::Retry{1, 130}, 100)) == Numbers{2});
  CHECK(waits(queue, 110).at(1) == "its next try, in 20 s");
  CHECK(next_due(queue) == 130.0);
  CHECK(starts(advance(queue, event::Ended{2, true}, 120)).empty());
  CHECK(advance(queue, event::Tick{}, 129).empty());
  CHECK(starts(advance(queue, event::Tick{}, 130)) == Numbers{1});
  CHECK_FALSE(next_due(queue));
}

TEST_CASE("a held run waits to be let go; an edited one has another place") {
  Queue queue = queue_of(1);
  Job held = job(2);
  held.held = true;
  advance(queue, event::Submitted{{job(1), held, job(3), job(4)}, {}}, 0);
  CHECK(waits(queue, 0).at(2) == "`assay resume 2`");
  CHECK(starts(advance(queue, event::Edited{job(4, 1, 7)}, 0)).empty());
  CHECK(starts(advance(queue, event::Ended{1, true}, 0)) == Numbers{4});
  CHECK(advance(queue, event::Edited{job(3, 1, 0, {4})}, 0) == std::vector<Action>{action::Block{3, 4}});
  CHECK(advance(queue, event::Edited{job(3)}, 0) == std::vector<Action>{action::Unblock{3}});
  held.held = false;
  CHECK(advance(queue, event::Edited{held}, 0).empty());
  CHECK(starts(advance(queue, event::Ended{4, true}, 0)) == Numbers{2});
  CHECK(advance(queue, event::Edited{job(2, 1, 9)}, 0).empty());   // it runs: nothing
  CHECK(queue.entries.at(2).job.priority == 0);
}

TEST_CASE("while the disk is nearly full nothing starts here, and runs of other executors do") {
  Queue queue = queue_of(2);
  advance(queue, event::Closed{"disk space (1 GiB free)"}, 0);
  Job away = job(2);
  away.demand = {0, 0, 0, false};
  CHECK(starts(advance(queue, event::Submitted{{job(1), away}, {}}, 0)) == Numbers{2});
  CHECK(waits(queue, 0).at(1) == "disk space (1 GiB free)");
  CHECK(queue.cores_used == 0);
  CHECK(starts(advance(queue, event::Closed{""}, 0)) == Numbers{1});
}

TEST_CASE("a run that would wait for itself is seen") {
  Queue queue = queue_of(1);
  advance(queue, event::Submitted{{job(1), job(2, 1, 0, {1}), job(3, 1, 0, {2})}, {}}, 0);
  CHECK(circle(queue, 2, {3}) == Numbers{3, 2});
  CHECK(circle(queue, 2, {2}) == Numbers{2});
  CHECK(circle(queue, 3, {1, 2}).empty());
}

TEST_CASE("the cost of adding does not grow with the queue") {
  // Counted, not timed: what is looked at when one more is added to a full machine is the kinds of waiting runs.
  Queue queue = queue_of(1);
  for (std::int64_t n = 1; n <= 20000; ++n) REQUIRE(advance(queue, event::Submitted{{job(n)}, {}}, 0).size() == (n == 1 ? 1 : 0));
  CHECK(queue.waiting.size() == 1);
  CHECK(queue.entries.size() == 20000);
}

// The model: a list of jobs with a state each, everything found by looking through it all.
namespace {

enum class Model { blocked, held, delayed, waiting, active, succeeded, failed, skipped };

struct ModelJob {
  Job job;
  std::set<std::int64_t> left, left_any;   // dependencies that have not succeeded, not ended
  Model state;
  std::set<int> gpus;
};

class Simple {
 public:
  explicit Simple(const Machine& machine) : machine_(machine) {}

  void submit(const Job& job) {
    jobs[job.number] = {job, job.after, job.after_any, Model::blocked, {}};
    settle();
  }
  void edit(const Job& job) {
    jobs.at(job.number).job = job;
    jobs.at(job.number).left = job.after;
    jobs.at(job.number).left_any = job.after_any;
    jobs.at(job.number).state = Model::blocked;
    settle();
  }
  void end(std::int64_t number, bool good) {
    jobs.at(number).state = good ? Model::succeeded : Model::failed;
    jobs.at(number).gpus.clear();
    settle();
  }
  void retry(std::int64_t number, double when) {
    jobs.at(number).job.not_before = when;
    jobs.at(number).state = Model::delayed;
    jobs.at(number).gpus.clear();
    settle();
  }

  // Every state follows from the others, again and again until nothing changes.
  void settle() {
    for (bool again = true; again;) {
      again = false;
      for (auto& [number, entry] : jobs) {
        if (finished(entry.state) || entry.state == Model::active) continue;
        Model next = Model::waiting;
        if (entry.job.not_before > now) next = Model::delayed;
        if (entry.job.held) next = Model::held;
        for (const std::int64_t on : std::set<std::int64_t>(entry.left_any))
          if (finished(jobs.at(on).state)) entry.left_any.erase(on);
        for (const std::int64_t on : std::set<std::int64_t>(entry.left))
          if (jobs.at(on).state == Model::succeeded) entry.left.erase(on);
        if (!entry.left.empty() || !entry.left_any.empty()) next = Model::blocked;
        for (const std::int64_t on : entry.left)
          if (jobs.at(on).state == Model::failed || jobs.at(on).state == Model::skipped) next = Model::skipped;
        again |= next != entry.state;
        entry.state = next;
      }
    }
  }

  // One at a time: everything waiting in the order of the rules, what does not fit sets aside what it needs, once for
  // all that are alike.
  std::vector<Action> start() {
    std::vector<Action> started;
    for (;;) {
      std::vector<ModelJob*> order;
      for (auto& [number, entry] : jobs)
        if (entry.state == Model::waiting) order.push_back(&entry);
      const auto alike = [](const ModelJob* a, const ModelJob* b) {
        return a->job.priority == b->job.priority && a->job.series == b->job.series && a->job.group == b->job.group &&
               a->job.demand == b->job.demand;
      };
      // The rules speak of the first of each kind.
      std::vector<ModelJob*> firsts;
      for (ModelJob* entry : order)
        if (std::none_of(firsts.begin(), firsts.end(), [&](ModelJob* f) { return alike(f, entry); })) firsts.push_back(entry);
      std::stable_sort(firsts.begin(), firsts.end(), [&](ModelJob* a, ModelJob* b) {
        if (a->job.priority != b->job.priority) return a->job.priority > b->job.priority;
        return share(a->job.series) < share(b->job.series);
      });
      int cores = machine_.cores, gpus = static_cast<int>(machine_.gpus.size());
      std::int64_t memory = machine_.memory;
      std::set<int> taken;
      for (const auto& [number, entry] : jobs)
        if (entry.state == Model::active && entry.job.demand.here) {
          cores -= entry.job.demand.cores;
          memory -= entry.job.demand.memory;
          gpus -= entry.job.demand.gpus;
          taken.insert(entry.gpus.begin(), entry.gpus.end());
        }
      ModelJob* chosen = nullptr;
      for (ModelJob* entry : firsts) {
        const Demand& demand = entry->job.demand;
        if (limits.count(entry->job.group) != 0 && !entry->job.group.empty() &&
            active_of(entry->job.group) >= limits.at(entry->job.group))
          continue;
        if (demand.here && (closed || demand.cores > machine_.cores || demand.memory > machine_.memory ||
                            demand.gpus > static_cast<int>(machine_.gpus.size())))
          continue;
        if (!demand.here || (demand.cores <= cores && (demand.memory == 0 || demand.memory <= memory) &&
                             (demand.gpus == 0 || demand.gpus <= gpus))) {
          chosen = entry;
          break;
        }
        cores -= demand.cores;
        memory -= demand.memory;
        gpus -= demand.gpus;
      }
      if (chosen == nullptr) return started;
      chosen->state = Model::active;
      if (chosen->job.demand.here)
        for (const int gpu : machine_.gpus)
          if (taken.count(gpu) == 0 && static_cast<int>(chosen->gpus.size()) < chosen->job.demand.gpus)
            chosen->gpus.insert(gpu);
      started.push_back(action::Start{chosen->job.number, {chosen->gpus.begin(), chosen->gpus.end()}});
    }
  }

  int share(const std::string& series) const {
    int sum = 0;
    for (const auto& [number, entry] : jobs)
      if (entry.state == Model::active && entry.job.series == series)
        sum += entry.job.demand.here ? std::max(1, entry.job.demand.cores) : 1;
    return sum;
  }
  int active_of(const std::string& group) const {
    return static_cast<int>(std::count_if(jobs.begin(), jobs.end(), [&](const auto& pair) {
      return pair.second.state == Model::active && pair.second.job.group == group;
    }));
  }
  static bool finished(Model state) { return state >= Model::succeeded; }

  std::map<std::int64_t, ModelJob> jobs;
  std::map<std::string, int> limits;
  bool closed = false;
  double now = 0;

 private:
  Machine machine_;
};

}  // namespace

TEST_CASE("random event sequences: as the model says, never over capacity, nothing lost, nothing started twice") {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto up_to = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
    Queue queue = queue_of(1 + up_to(5), 100 * up_to(4), {});
    for (int gpu = up_to(4); gpu > 0; --gpu) queue.machine.gpus.insert(2 * gpu);
    Simple model(queue.machine);
    std::int64_t next = 1;
    std::map<std::int64_t, int> started, retried;
    std::set<std::int64_t> skipped;

    const auto check = [&](const std::vector<Action>& actions) {
      std::vector<Action> begun;
      for (const Action& action : actions) {
        if (std::holds_alternative<action::Start>(action)) begun.push_back(action);
        if (const auto* skip = std::get_if<action::Skip>(&action)) REQUIRE(skipped.insert(skip->number).second);
      }
      REQUIRE(begun == model.start());
      for (const Action& action : begun) {
        const std::int64_t number = std::get<action::Start>(action).number;
        REQUIRE(++started[number] == retried[number] + 1);   // one start for each attempt
      }
      int cores = 0;
      std::int64_t memory = 0;
      std::multiset<int> gpus;
      std::size_t open = 0;
      for (const auto& [number, entry] : model.jobs) {
        REQUIRE((queue.entries.count(number) != 0) == !Simple::finished(entry.state));
        REQUIRE((skipped.count(number) != 0) == (entry.state == Model::skipped));
        if (Simple::finished(entry.state)) continue;
        ++open;
        const Queue::Entry& ours = queue.entries.at(number);
        REQUIRE(static_cast<int>(ours.place) == static_cast<int>(entry.state));
        if (entry.state != Model::active) continue;
        REQUIRE(ours.gpus == entry.gpus);
        gpus.insert(ours.gpus.begin(), ours.gpus.end());
        if (!entry.job.demand.here) continue;
        cores += entry.job.demand.cores;
        memory += entry.job.demand.memory;
      }
      REQUIRE(queue.entries.size() == open);
      REQUIRE(queue.cores_used == cores);
      REQUIRE(queue.memory_used == memory);
      REQUIRE(cores <= queue.machine.cores);
      REQUIRE(memory <= queue.machine.memory);
      REQUIRE(gpus.size() == std::set<int>(gpus.begin(), gpus.end()).size());   // none given twice
      // Whoever has not started is told what it waits for.
      const auto texts = waits(queue, model.now);
      for (const auto& [number, entry] : queue.entries)
        REQUIRE((texts.count(number) != 0) == (entry.place != Queue::Place::active));
    };
    const auto random_job = [&](std::int64_t number) {
      Job made = job(number, 1 + up_to(4), up_to(3) - 1);
      made.series = up_to(2) == 0 ? "s" : "t";
      made.group = up_to(3) == 0 ? "g" : "";
      made.demand.memory = up_to(3) == 0 ? 100 * up_to(4) : 0;
      made.demand.gpus = up_to(4) == 0 ? up_to(3) : 0;
      if (up_to(8) == 0) made.demand = {0, 0, 0, false};
      made.held = up_to(10) == 0;
      for (int d = up_to(3); d > 0 && number > 1; --d)
        (up_to(3) == 0 ? made.after_any : made.after).insert(1 + up_to(static_cast<int>(number) - 1));
      return made;
    };
    // As the daemon tells it: without what is over already; `failed` are those of `after` that ended badly.
    const auto open_dependencies = [&](Job made, std::set<std::int64_t>& failed) {
      for (const std::int64_t on : std::set<std::int64_t>(made.after_any))
        if (Simple::finished(model.jobs.at(on).state)) made.after_any.erase(on);
      for (const std::int64_t on : std::set<std::int64_t>(made.after)) {
        const Model state = model.jobs.at(on).state;
        if (state == Model::succeeded) made.after.erase(on);
        else if (Simple::finished(state)) failed.insert(on);
      }
      return made;
    };
    const auto one_of = [&](const std::vector<std::int64_t>& numbers) {
      return numbers[static_cast<std::size_t>(up_to(static_cast<int>(numbers.size())))];
    };

    for (int turn = 0; turn < 150; ++turn) {
      std::vector<std::int64_t> active, idle;
      for (const auto& [number, entry] : model.jobs) {
        if (entry.state == Model::active) active.push_back(number);
        else if (!Simple::finished(entry.state)) idle.push_back(number);
      }
      const int what = up_to(20);
      if (what < 8) {
        event::Submitted submitted;
        for (int n = 1 + up_to(3); n > 0; --n) {
          const Job made = random_job(next++);
          submitted.jobs.push_back(open_dependencies(made, submitted.failed));
          model.submit(made);
        }
        check(advance(queue, submitted, model.now));
      } else if (what < 14 && !active.empty()) {
        const std::int64_t number = one_of(active);
        const bool good = up_to(4) != 0;
        model.end(number, good);
        check(advance(queue, event::Ended{number, good}, model.now));
      } else if (what < 15 && !active.empty()) {
        const std::int64_t number = one_of(active);
        const double when = model.now + up_to(4);
        ++retried[number];
        model.retry(number, when);
        check(advance(queue, event::Retry{number, when}, model.now));
      } else if (what < 16 && !idle.empty()) {   // killed before its start
        const std::int64_t number = one_of(idle);
        model.end(number, false);
        check(advance(queue, event::Ended{number, false}, model.now));
      } else if (what < 17 && !idle.empty()) {
        std::set<std::int64_t> failed;
        const std::int64_t number = one_of(idle);
        const Job made = open_dependencies(random_job(number), failed);
        if (!failed.empty() || !circle(queue, number, made.after).empty() || !circle(queue, number, made.after_any).empty())
          continue;   // the daemon refuses these
        model.edit(made);
        check(advance(queue, event::Edited{made}, model.now));
      } else if (what < 18) {
        const std::optional<int> limit = up_to(4) == 0 ? std::nullopt : std::optional<int>(up_to(3));
        if (limit) model.limits["g"] = *limit;
        else model.limits.erase("g");
        check(advance(queue, event::Limited{"g", limit}, model.now));
      } else if (what < 19) {
        model.closed = up_to(4) == 0;
        check(advance(queue, event::Closed{model.closed ? "disk space" : ""}, model.now));
      } else {
        model.now += 1;
        model.settle();
        check(advance(queue, event::Tick{}, model.now));
      }
    }
    // No starvation: once nothing new comes and everything is let go, whatever can ever run gets its turn.
    model.now += 10;
    model.closed = false;
    model.limits.clear();
    for (auto& [number, entry] : model.jobs) entry.job.held = false;
    model.settle();
    const auto first = advance(queue, event::Closed{""}, model.now);
    std::vector<Action> all = first;
    for (const Action& action : advance(queue, event::Limited{"g", {}}, model.now)) all.push_back(action);
    for (const auto& [number, entry] : model.jobs)
      if (const auto found = queue.entries.find(number); found != queue.entries.end() && found->second.job.held) {
        Job freed = found->second.job;
        freed.held = false;
        for (const Action& action : advance(queue, event::Edited{freed}, model.now)) all.push_back(action);
      }
    // Step by step is not all at once: from here on the queue alone is asked.
    std::map<std::int64_t, int> ends;
    for (;;) {
      std::int64_t running = 0;
      for (const auto& [number, entry] : queue.entries)
        if (entry.place == Queue::Place::active) running = number;
      if (running == 0) break;
      REQUIRE(++ends[running] == 1);
      advance(queue, event::Ended{running, true}, model.now);
    }
    for (const auto& [number, entry] : queue.entries) {
      const bool never = !never_fits(entry.job.demand, queue.machine).empty();
      REQUIRE((never || entry.place == Queue::Place::blocked));   // or it waits for one that never fits
    }
    REQUIRE(queue.cores_used == 0);
    REQUIRE(queue.gpus_used.empty());
    REQUIRE(queue.series_used.empty());
    REQUIRE(queue.group_active.empty());
  }
}
