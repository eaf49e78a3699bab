// The daemon's runs: the queue, the executors that carry them out, and the registry they are recorded in.
//
// Single-threaded: everything happens on the io_context's thread. What happens to a run is first in its folder, then in
// the registry; after a kill -9 at any moment, restore() finds its way back from those two.
#pragma once

#include <asio/io_context.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/executors/executor.h"
#include "runner/paths.h"
#include "runner/protocol.h"
#include "runner/run_folder.h"
#include "runner/scheduler.h"

namespace spdlog {
class logger;
}

namespace assay::runner {

// What the daemon may give away.
struct Resources {
  Machine machine;
  double disk_reserve = 0;         // bytes; with less than that free in the data folder nothing starts on this machine
  // A run that is over sooner goes from starting to its end, without being recorded as running: one wait for the disk less.
  std::chrono::milliseconds briefest{10};
};

class Fleet : private Executor::Listener {
 public:
  Fleet(asio::io_context& io, registry::Registry& registry, Paths paths, Resources resources, int log_fd,
        std::shared_ptr<spdlog::logger> log, std::function<void(std::int64_t)> changed);
  ~Fleet() override;

  // Takes up every run whose state is not final: queues those that wait, and adopts living supervisors and records ended
  // ones, one after the other, on the io_context; `done` is called when what they wrote meanwhile has been read.
  void restore(std::function<void()> done);
  // Runs that restore() has not finished with.
  std::size_t restoring() const { return restoring_.size(); }

  // Requests. Each throws std::invalid_argument with one sentence when it is refused; nothing has changed then. When one
  // returns, what it asked for is recorded.

  // Makes the folders and the registry's rows in one transaction, then queues. Throws when a folder cannot be made, a
  // run waits for one that does not exist, or the machine can never give what it needs; nothing is left behind then.
  std::vector<std::int64_t> submit(const Submission& submission);
  // The same is likely to be submitted again: makes what can be made of its folder before. To be called when whoever
  // asked for something has his answer.
  void expect(const Submission& submission);
  // Ends runs that have not ended; others are left as they are. Returns once it is recorded that they shall end.
  void kill(const std::vector<std::int64_t>& numbers, const KillRequest& request);
  // A waiting run does not start; a running one is stopped where it is and keeps what it has, or, `to_checkpoint`, ends
  // with a checkpoint and gives everything back. Ended ones are left as they are.
  void pause(const std::vector<std::int64_t>& numbers, bool to_checkpoint, const std::string& by);
  void resume(const std::vector<std::int64_t>& numbers);
  // Ended runs again, under their numbers: from the newest checkpoint where there is one, unless `fresh`.
  void restart(const std::vector<std::int64_t>& numbers, bool fresh);
  void edit(const EditRequest& request);
  // Takes ended runs out of the short listing; with `checkpoints`, deletes theirs. Returns the bytes that became free.
  std::uintmax_t clean(const std::vector<std::int64_t>& numbers, bool checkpoints);
  // The limit is in groups.json before it is in the registry.
  void set_group(const std::string& name, std::optional<int> limit);

  // Starts nothing any more, ends what runs, and calls `done` when nothing does. What waits goes on waiting.
  void drain(const KillRequest& request, std::function<void()> done);

  const Queue& queue() const { return queue_; }
  std::size_t active() const { return live_.size(); }
  std::map<std::int64_t, std::string> waits() const;
  // Where each run that has started executes, as its executor says it.
  std::map<std::int64_t, std::string> places() const;

 private:
  struct Live;
  // What executors tell.
  void running(std::int64_t number) override;
  bool ended(std::int64_t number, const Ending& ending, double when) override;
  void waits(std::int64_t number, const std::string& why) override;

  void record_running(std::int64_t number);
  void record_running_in(std::int64_t number, std::chrono::milliseconds delay);
  void happened(const Event& event);
  void apply();
  void apply_one(const Action& action);
  struct Begun;
  void start(const action::Start& decided);
  Begun record_start(const action::Start& decided, const registry::RunRow& row);
  void begun(Begun begun);
  std::vector<Begun> record_next(const event::Ended& ended);
  void apply_later();
  void start_decided();
  void look_at_disk();
  void adopt_next();
  void adopt(std::int64_t number);
  void tell_restored();
  void set_timers();
  void move(std::int64_t number, const registry::State& next, double now);
  void record_state(std::int64_t number, const registry::State& next, double now);
  void moved(std::int64_t number, const registry::State& next);
  void again(std::int64_t number, const registry::State& ended, double when, double delay);
  void schedule_ingest();
  void ingest_all();
  Executor& executor_of(const nlohmann::json& config) const;
  Job job_of(const registry::RunRow& row) const;
  Job job_of(std::int64_t number, const nlohmann::json& config, const std::string& series, const std::string& group) const;
  void refuse_what_never_fits(const std::string& what, const nlohmann::json& config) const;
  std::set<std::int64_t> unfinished(const std::vector<std::int64_t>& after, bool success, std::set<std::int64_t>* failed) const;
  void hold(std::int64_t number, bool held);
  void finish_edit(const registry::RunRow& row);
  std::shared_ptr<Live> make_live(const registry::RunRow& row);
  const nlohmann::json& parsed(const std::string& config);

  asio::io_context& io_;
  registry::Registry& registry_;
  Paths paths_;
  double disk_reserve_;
  std::chrono::milliseconds briefest_;
  std::shared_ptr<spdlog::logger> log_;
  std::function<void(std::int64_t)> changed_;
  Queue queue_;
  std::map<std::int64_t, registry::StateKind> states_;   // of the runs that have not ended
  std::map<std::int64_t, std::shared_ptr<Live>> live_;   // starting and running
  std::map<std::string, std::unique_ptr<Executor>> executors_;
  struct Timer;
  std::unique_ptr<Timer> ingest_timer_, apply_timer_, due_timer_, disk_timer_;
  bool ingesting_ = false;
  void put_series_files(const Submission& submission);
  void put_series_rows(const registry::SeriesRow& series);
  bool has_recorded(const registry::SeriesRow& series) const;
  SpareFolder spare_;
  struct Parsed;
  std::unique_ptr<Parsed> parsed_;                        // the configuration that was looked at last
  std::map<std::string, registry::SeriesRow> series_;     // some that this daemon has recorded, as it did
  std::int64_t others_ = 0;                               // the registry's version_of_others() when they were
  std::set<std::int64_t> unadopted_;                      // by restore(), so far
  std::set<std::int64_t> restoring_;                      // those, and the ended ones of which there is more to read
  std::function<void()> restored_;
  std::deque<Action> undone_;                             // decided, not yet carried out
  std::map<Executor*, std::vector<Attempt>> decided_;     // recorded as starting, not yet handed over
  bool applying_ = false;
  std::function<void()> drained_;                         // set once nothing is to be started any more
};

}  // namespace assay::runner
