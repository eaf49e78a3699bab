// The trainer as a process of the supervisor's, below a small init that keeps everything the trainer starts together.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runner/process.h"

namespace assay::runner {

struct Launch {
  std::vector<std::string> argv;
  std::vector<std::string> environment;   // NAME=value, on top of this process's own
  std::filesystem::path work_folder;
  std::filesystem::path stdout_file, stderr_file;
  double time_limit = 0, stall_timeout = 0;     // seconds; 0: none
  std::string metrics, metrics_regex;     // trainer.metrics, trainer.metrics_regex
  std::vector<std::string> changed;       // files it executes that are others than when it was queued
};

// What to start for the run in `folder`, from config.json and run.json. Throws std::runtime_error with one sentence when
// the folder is not whole: config.json must have the hash in config.sha256.
Launch plan_launch(const std::filesystem::path& folder);

struct TrainerEnd {
  bool exited = false;                    // else ended by a signal
  int status = 0;                         // exit code or signal
  double when = 0;                        // unix seconds
};

// The init is our child, the trainer the init's. Where the system allows it (as root, or with unprivileged user
// namespaces), the init is process 1 of a PID namespace with a /proc of its own: when it dies, because the trainer has
// ended, we kill it, or we are killed ourselves, the kernel ends everything in it. Elsewhere the init is a subreaper and
// ends its descendants one by one. $ASSAY_ISOLATION=none asks for the latter: inside a user namespace set-user-id
// programs (sudo, apptainer) have no power.
//
// After the trainer's end the init sends SIGTERM to what the trainer left behind, and ends itself when all of it is gone,
// `leftover grace` later at the latest.
class TrainerProcess {
 public:
  // Starts it in a session of its own, its signal mask clear; returns once the program is executing.
  // Throws std::runtime_error "PROGRAM: REASON".
  static TrainerProcess start(const Launch& plan);

  pid_t init() const { return init_; }
  const Identity& trainer() const { return trainer_; }          // as seen from here; start time 0: gone before we looked
  const std::string& isolation() const { return isolation_; }   // "pid-namespace", or "none: WHY"

  // To the trainer's process group, by the init, which knows whether it still is the trainer's; nothing afterwards.
  // `leftover_grace` (seconds; negative: as it was, 2 s): from the trainer's end, or this call if that was before.
  void signal_group(int signal, double leftover_grace = -1);
  // How the trainer ended, once it has: at the latest when the init has. Never waits.
  std::optional<TrainerEnd> ended();
  // SIGKILL to all there is of the run. In the namespace at once; otherwise to be repeated until the init has ended.
  void kill_everything();

 private:
  TrainerProcess(pid_t init, Fd channel, std::string isolation);
  pid_t init_;
  Fd channel_;
  Identity trainer_;
  std::string isolation_;
  std::optional<TrainerEnd> end_;
};

}  // namespace assay::runner
