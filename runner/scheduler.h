// Which run starts when. Pure: no clock, no files, no processes; the daemon tells it what happened and what time it is,
// and does what it says.
//
// Order: higher priority first; among equals the series that has the fewest cores in use, so that a long series does not
// keep a short one waiting; then the lower number. A run whose group is full is passed over. A run that the machine has
// no room for yet keeps what it needs for itself: those behind it may start with what is left over, so it is never
// overtaken for ever. A run that needs more than the machine has at all is passed over, and says so.
//
// A run waits for the runs in `after` to succeed; when one of them ends otherwise, it is skipped, and so are those that
// wait for its success. It waits for the runs in `after_any` to end, however they do.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace assay::runner {

// What a run takes of this machine while it is active.
struct Demand {
  int cores = 1;
  std::int64_t memory = 0;           // MiB
  int gpus = 0;
  bool here = true;                  // false: another executor carries it out; it takes nothing of this machine
  auto operator<=>(const Demand&) const = default;
};

struct Machine {
  int cores = 1;
  std::int64_t memory = 0;           // MiB
  std::set<int> gpus;                // indices that may be given away
  // What set each, as what the daemon was started with ("ASSAY_SLOTS=4", "--slots 4"); empty: it is all of the machine.
  std::string cores_from, memory_from, gpus_from;
};

struct Job {
  std::int64_t number = 0;
  std::string series, group;         // group "": in none
  std::int64_t priority = 0;
  Demand demand;
  std::set<std::int64_t> after, after_any;   // runs it still waits for
  double not_before = 0;             // unix seconds: a retry that waits for its time
  bool held = false;                 // somebody paused it before it started
};

// Everything the decisions depend on. Only runs that have not ended are in it.
struct Queue {
  enum class Place { blocked, held, delayed, waiting, active };
  struct Entry {
    Job job;
    Place place = Place::waiting;
    std::set<int> gpus;              // of an active one
  };
  // Runs that differ in nothing that decides but their number.
  struct Kind {
    std::int64_t priority;
    std::string series, group;
    Demand demand;
    auto operator<=>(const Kind&) const = default;
  };

  Machine machine;
  std::map<std::string, int> limits;                            // of groups: active runs at most
  std::string closed;                                           // why nothing starts here at all; empty: it does

  std::map<std::int64_t, Entry> entries;
  std::map<Kind, std::set<std::int64_t>> waiting;
  std::set<std::pair<double, std::int64_t>> delayed;            // (not_before, number)
  std::map<std::int64_t, std::set<std::int64_t>> waiting_for;   // run -> those blocked by it
  int cores_used = 0;
  std::int64_t memory_used = 0;
  std::set<int> gpus_used;
  std::map<std::string, int> series_used;                       // cores of active runs, one for each elsewhere
  std::map<std::string, int> group_active;
};

namespace event {
struct Submitted {
  std::vector<Job> jobs;
  std::set<std::int64_t> failed;     // runs named in some `after` that have already ended without success
};
struct Active {                      // found at the daemon's start: it runs already
  Job job;
  std::set<int> gpus;
};
struct Ended {
  std::int64_t number;
  bool succeeded;
};
struct Retry {                       // an active run ended and is to be started again, not before that time
  std::int64_t number;
  double not_before;
  bool held = false;                 // and not before somebody lets it go
};
struct Edited {                      // a run that is not active is another now; its number is the same
  Job job;
};
struct Limited {                     // `assay group`; nothing: no limit any more
  std::string group;
  std::optional<int> limit;
};
struct Closed {                      // the disk is nearly full, say; "": open again
  std::string why;
};
struct Tick {};                      // time has passed
}  // namespace event
using Event = std::variant<event::Submitted, event::Active, event::Ended, event::Retry, event::Edited, event::Limited,
                           event::Closed, event::Tick>;

namespace action {
struct Start {
  std::int64_t number;
  std::vector<int> gpus = {};        // indices, rising
  bool operator==(const Start&) const = default;
};
struct Block {                       // it waits for another run
  std::int64_t number, on;
  bool operator==(const Block&) const = default;
};
struct Unblock {                     // it waits for no other run any more
  std::int64_t number;
  bool operator==(const Unblock&) const = default;
};
struct Skip {
  std::int64_t number, because;
  bool operator==(const Skip&) const = default;
};
}  // namespace action
using Action = std::variant<action::Start, action::Block, action::Unblock, action::Skip>;

// Takes the event in and says what is to be done, in this order. `now`: unix seconds. Cost: logarithmic in the queue's
// length for each run concerned, and linear in the number of different kinds of waiting runs. An event about a run that
// is not in the queue (or, Edited, that is active) is nothing.
std::vector<Action> advance(Queue& queue, const Event& event, double now);

// When the next delayed run is due, for a Tick at that time.
std::optional<double> next_due(const Queue& queue);

// Would the run wait for itself if it waited for these? The runs on the way, from the first of `after` to `number`.
std::vector<std::int64_t> circle(const Queue& queue, std::int64_t number, const std::set<std::int64_t>& after);

// What the machine can never give the run, in words: "4 cores, and there are 2"; empty: nothing.
std::string never_fits(const Demand& demand, const Machine& machine);

// What each run that has not started waits for, in words: "run 17", "a core (2 of 2 in use)", "a core (2 of 2 in use, 3
// runs first)", "group g (2 of 2 running)". A pass over the queue, sorted.
std::map<std::int64_t, std::string> waits(const Queue& queue, double now);

}  // namespace assay::runner
