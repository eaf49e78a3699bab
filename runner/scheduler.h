// Which run starts when. Pure: no clock, no files, no processes; the daemon tells it what happened and does what it says.
//
// Order: higher priority first, then the lower number (first come, first served). The first in that order that does
// not fit keeps everything behind it waiting, so that a run of many cores is never overtaken for ever. A run waits for
// the runs in its `after` to succeed; when one of them ends otherwise, it is skipped, and so are those that wait for it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace assay::runner {

struct Job {
  std::int64_t number = 0;
  int cores = 1;                     // slots it takes; more than there are at all means all of them
  std::int64_t priority = 0;
  std::set<std::int64_t> after;      // runs it still waits for
};

// Everything the decisions depend on. Only runs that have not ended are in it.
struct Queue {
  enum class Place { blocked, waiting, active };
  struct Entry {
    Job job;
    Place place = Place::waiting;
  };
  std::map<std::int64_t, Entry> entries;
  std::set<std::pair<std::int64_t, std::int64_t>> order;        // (-priority, number) of those waiting for a slot
  std::map<std::int64_t, std::set<std::int64_t>> waiting_for;   // run -> those blocked by it
  int used = 0;                                                 // slots of the active ones
};

namespace event {
struct Submitted {
  std::vector<Job> jobs;
  std::set<std::int64_t> failed;     // runs named in some `after` that have already ended without success
};
struct Active {                      // found at the daemon's start: it runs already
  Job job;
};
struct Ended {
  std::int64_t number;
  bool succeeded;
};
}  // namespace event
using Event = std::variant<event::Submitted, event::Active, event::Ended>;

namespace action {
struct Start {
  std::int64_t number;
  bool operator==(const Start&) const = default;
};
struct Block {                       // it waits for another run
  std::int64_t number, on;
  bool operator==(const Block&) const = default;
};
struct Unblock {                     // all it waited for have succeeded: it waits for a slot
  std::int64_t number;
  bool operator==(const Unblock&) const = default;
};
struct Skip {
  std::int64_t number, because;
  bool operator==(const Skip&) const = default;
};
}  // namespace action
using Action = std::variant<action::Start, action::Block, action::Unblock, action::Skip>;

// Takes the event in and says what is to be done, in this order. Cost: logarithmic in the queue's length for each run
// concerned. `capacity` >= 1, in slots (cores). An Ended for a run that is not in the queue is nothing.
std::vector<Action> advance(Queue& queue, const Event& event, int capacity);

// What each run that has not started waits for, in words: "run 17", "a core (2 of 2 in use)", "a core (2 of 2 in use, 3
// runs first)". One pass over the queue.
std::map<std::int64_t, std::string> waits(const Queue& queue, int capacity);

}  // namespace assay::runner
