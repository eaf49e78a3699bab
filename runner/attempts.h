// The attempts of one run: what each was started with, what is kept of the former ones, and whether there is another.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/run_folder.h"

namespace assay::runner {

// launch.json: written by the daemon before an attempt is recorded as starting. A folder without one says what a
// LaunchRecord says by itself, so a first attempt without GPUs costs no file and no waits for the disk.
struct LaunchRecord {
  std::int64_t attempt = 1;
  std::vector<int> gpus;           // indices for CUDA_VISIBLE_DEVICES; empty: the variable is left as it is
  bool resume = false;             // it goes on from the newest checkpoint
  bool operator==(const LaunchRecord&) const = default;
};
void write_launch(const std::filesystem::path& folder, const LaunchRecord& record);
LaunchRecord read_launch(const std::filesystem::path& folder);

// True when checkpoints/ in the run folder holds one.
bool has_checkpoint(const std::filesystem::path& folder);

// Moves what attempt `attempt` left into attempts/NNNN in the run folder, so that the next begins in a folder that no
// supervisor has been in: its records and console always, and with `progress` also what the trainer wrote (metrics,
// events, evaluations, samples, adapter, checkpoints). Cut off anywhere and called again, it goes on. Nothing to move
// is nothing. The run must not be executing. A batch system may begin an attempt again: `restart` counts that, from 1, and
// the folder is then attempts/NNNN.R.
void set_aside(const std::filesystem::path& folder, std::int64_t attempt, bool progress, int restart = 0);

// The files that a run will execute, as they are now: of a command line the words that name a file seen from `folder`
// (the program, a script). [{"file", "bytes", "mark"}]: the mark is the SHA-256 of a file up to 4 MiB, and the time it was
// last changed of a larger one.
// With `known`, marks that were computed before are taken from there: of a file of the same device, inode, size, mtime and
// ctime, and only of one that had been at rest for two seconds, as a file changed twice within a tick keeps its times.
using ProgramMarks = std::map<std::string, std::string>;
nlohmann::json programs_of(const std::vector<std::string>& argv, const std::filesystem::path& folder, ProgramMarks* known = nullptr);
// Of `programs` in run.json, those that are others now, or gone: code that changed between enqueue and start.
std::vector<std::string> changed_programs(const nlohmann::json& programs);

// Which kind of end that is: "infrastructure" (lost; killed by SIGKILL or SIGBUS that nobody of ours sent, also when a
// shell or a container says so with 137 or 135; sysexits' 71 OSERR, 74 IOERR and 75 TEMPFAIL; and, of assay-train, exit
// code 1), "stalled", "code" (any other failure), "" (success, killed, skipped). A function of the state alone.
std::string fault_of(const registry::State& state, bool command_trainer);

// Seconds until the run is started again after its `count`-th end of this kind (from 1), by schedule.retry of its
// configuration; nothing when it is not.
std::optional<double> retry_after(const nlohmann::json& config, const std::string& fault, std::int64_t count);

}  // namespace assay::runner
