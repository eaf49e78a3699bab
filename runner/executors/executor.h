// Who carries out a run's attempts: this machine (local), or a batch system (slurm).
//
// The daemon decides that an attempt starts, records it as `starting`, and hands it to the executor named by its
// configuration (schedule.executor). From then on the executor watches it and tells the daemon what becomes of it.
// A new executor is a class of this interface and a line in executors.cpp; fleet.cpp does not know them by name.
//
// Everything happens on the daemon's one thread. No call may block for longer than it takes to start a process: an
// executor that has to wait for a command (sbatch, squeue) waits through the io_context.
#pragma once

#include <asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "registry/registry.h"
#include "runner/paths.h"
#include "runner/run_folder.h"

namespace spdlog {
class logger;
}

namespace assay::runner {

// One attempt of one run.
struct Attempt {
  registry::RunRow row;            // with its texts; row.attempt counts this attempt, from 1
  std::vector<int> gpus;           // of this machine, by index, that the scheduler gave it; only for local executors
};

// How an attempt came to its end.
// ExitRecord: the run folder's exit.json, as the supervisor (on whatever machine) wrote it. The daemon makes the final
// state of it and of what it has read from the folder.
// State: there is no such record: lost, killed from outside before it began, failed to start at all.
using Ending = std::variant<ExitRecord, registry::State>;

class Executor {
 public:
  // The daemon's side. Each call may throw (disk full, registry not writable): then nothing was taken in, and the
  // executor tells it again after a while. Telling something twice is harmless.
  class Listener {
   public:
    virtual ~Listener() = default;
    // The attempt executes: starting -> running.
    virtual void running(std::int64_t number) = 0;
    // The attempt is over and nothing of it executes any more. `when`: unix seconds. False: it has written more than is
    // read at one go; others have their turn, then it is to be told again.
    virtual bool ended(std::int64_t number, const Ending& ending, double when) = 0;
    // The attempt was accepted and does not execute, or not any more for now: a batch job that is pending, was requeued
    // or preempted. `why` is shown by `assay status`; empty: it does not wait.
    virtual void waits(std::int64_t number, const std::string& why) = 0;
  };

  virtual ~Executor() = default;

  // The word in schedule.executor.
  virtual const char* name() const = 0;
  // Do its runs take this machine's cores, memory and GPUs? The scheduler counts those; an executor for which this is
  // false has its own queue, and only groups, priorities and dependencies hold its runs back here.
  virtual bool uses_this_machine() const = 0;
  // Why a run of this resolved configuration can never be carried out, in one sentence, "" when it can. Asked before a
  // run is queued and again when a queued run is edited.
  virtual std::string refusal(const nlohmann::json& config) const = 0;

  // Begins these attempts; all were decided at the same moment, so that runs of one series may become one job array.
  // Never throws: what goes wrong with an attempt is told as its end, or tried again.
  virtual void start(const std::vector<Attempt>& attempts) = 0;
  // Takes up an attempt after the daemon's own end. The registry says starting or running; when it says starting, its
  // start may or may not have been carried out, and it must not be carried out twice. Never throws.
  virtual void adopt(const Attempt& attempt) = 0;
  // Somebody wants it to end; kill.json has been written. Its end is told by ended(), like any other. Never throws.
  virtual void end(std::int64_t number, const KillRequest& request) = 0;
  // Stops its processes where they are (they keep their memory), or lets them go on. False: it cannot, and the run goes
  // on as it was. Asked again for an adopted run that is to be paused.
  virtual bool pause(std::int64_t number, bool paused) = 0;
  // Where it executes, for people: "supervisor 4711", "Slurm job 17_3 on node2"; "" when there is nothing to say yet.
  virtual std::string where(std::int64_t number) const = 0;
};

struct ExecutorContext {
  asio::io_context& io;
  Executor::Listener& listener;    // outlives the executor
  Paths paths;
  int log_fd;                      // the daemon's log, for processes to write their last words to
  std::shared_ptr<spdlog::logger> log;
};

// Every executor of this build, by name. executors.cpp holds the list.
std::map<std::string, std::unique_ptr<Executor>> make_executors(const ExecutorContext& context);

}  // namespace assay::runner
