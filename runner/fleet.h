// The daemon's runs: the queue, the executors that carry them out, and the registry they are recorded in.
//
// Single-threaded: everything happens on the io_context's thread. What happens to a run is first in its folder, then in
// the registry; after a kill -9 at any moment, restore() finds its way back from those two.
#pragma once

#include <asio/io_context.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/executors/executor.h"
#include "runner/paths.h"
#include "runner/protocol.h"
#include "runner/scheduler.h"

namespace spdlog {
class logger;
}

namespace assay::runner {

class Fleet : private Executor::Listener {
 public:
  Fleet(asio::io_context& io, registry::Registry& registry, Paths paths, int slots, int log_fd,
        std::shared_ptr<spdlog::logger> log, std::function<void(std::int64_t)> changed);
  ~Fleet() override;

  // Takes up every run whose state is not final: adopts living supervisors, records ended ones, queues the rest.
  void restore();
  // Makes the folders and the registry's rows in one transaction, then queues. Throws when a folder cannot be made or a
  // run waits for one that does not exist; nothing is left behind then.
  std::vector<std::int64_t> submit(const Submission& submission);
  // Ends runs that have not ended; others are left as they are. Returns once it is recorded that they shall end.
  void kill(const std::vector<std::int64_t>& numbers, const KillRequest& request);

  int slots() const { return slots_; }
  int used() const { return queue_.used; }
  std::size_t active() const { return live_.size(); }
  std::map<std::int64_t, std::string> waits() const;

 private:
  struct Live;
  // What executors tell.
  void running(std::int64_t number) override;
  void ended(std::int64_t number, const Ending& ending, double when) override;
  void waits(std::int64_t number, const std::string& why) override;

  void happened(const Event& event);
  void apply();
  void apply_one(const Action& action);
  void start(std::int64_t number);
  void start_decided();
  void move(std::int64_t number, const registry::State& next, double now);
  void schedule_ingest();
  Executor& executor_of(const nlohmann::json& config) const;
  std::shared_ptr<Live> make_live(const registry::RunRow& row);

  asio::io_context& io_;
  registry::Registry& registry_;
  Paths paths_;
  int slots_;
  std::shared_ptr<spdlog::logger> log_;
  std::function<void(std::int64_t)> changed_;
  Queue queue_;
  std::map<std::int64_t, registry::StateKind> states_;   // of the runs that have not ended
  std::map<std::int64_t, std::shared_ptr<Live>> live_;   // starting and running
  std::map<std::string, std::unique_ptr<Executor>> executors_;
  struct Timer;
  std::unique_ptr<Timer> ingest_timer_, apply_timer_;
  bool ingesting_ = false;
  std::deque<Action> undone_;                             // decided, not yet carried out
  std::map<Executor*, std::vector<Attempt>> decided_;     // recorded as starting, not yet handed over
  bool applying_ = false;
};

}  // namespace assay::runner
