// The run folder: docs/run-folder.md is the contract.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/process.h"

namespace assay::runner {

// One file that is frozen with a run, by its name in the folder.
struct FrozenFile {
  std::string name, bytes;
};

// Can it be the name of a file or folder and nothing more: 1 to 200 bytes, no slash, no control character, no dot at its
// head.
bool is_plain_name(const std::string& name);

// "000017-e13g-nvfp4-s1"
std::string run_folder_name(std::int64_t number, const std::string& run, std::int64_t seed);

// A folder that holds already what is frozen with the next run, and run.json and states.jsonl empty: where the same run is
// added again and again, making the folder is one rename and the text of one file instead of nine files. It lies beside the
// runs and is nobody's before it has become a run's folder; what a former daemon left there is taken away.
class SpareFolder {
 public:
  explicit SpareFolder(std::filesystem::path folder);
  SpareFolder(const SpareFolder&) = delete;
  SpareFolder& operator=(const SpareFolder&) = delete;

  // For a run that freezes the same as this one. Never throws: without it the next folder is made when it is asked for.
  void prepare(const registry::NewRun& run, const std::vector<FrozenFile>& files);
  // Renames it and returns its run.json, to be written; none where it is not there, holds anything else, or `folder` exists:
  // nothing has happened then.
  Fd become(const std::filesystem::path& folder, const registry::NewRun& run, const std::vector<FrozenFile>& files);

 private:
  void take_away();

  std::filesystem::path folder_;
  std::vector<FrozenFile> held_;   // empty: it is not there
  Fd run_json_;
  bool in_vain_ = false;           // this file system does not rename as it must
};

// Makes RUNS/SERIES/NNNNNN-RUN-sSEED with all that is frozen before the start, each file read-only, and returns its
// path. A folder of that name is never reused: one that a cut-off submission left behind (no supervisor has ever been in
// it) is taken away, any other throws, and so does a series, run or file whose name is not plain. `files` are further files: series.toml, base-*.toml, dirty.diff, doctor.json.
// `spare` is used up where it holds what this run needs.
std::filesystem::path create_run_folder(const std::filesystem::path& runs, std::int64_t number,
                                        const registry::NewRun& run, const std::vector<FrozenFile>& files,
                                        SpareFolder* spare = nullptr);

// exit.json
struct ExitRecord {
  std::string kind;              // exited | signalled | not_started | timed_out | stalled | killed
  std::optional<int> code, signal;
  std::string by, last_error;
  double started = 0, ended = 0; // unix seconds
};
void write_exit(const std::filesystem::path& folder, const ExitRecord& record);
// Nothing while there is none. Throws std::runtime_error when it is there and is not what write_exit() writes.
std::optional<ExitRecord> read_exit(const std::filesystem::path& folder);

// supervisor.json
struct SupervisorRecord {
  Identity supervisor, trainer;  // trainer.pid is 0 until it has started
  std::string isolation;         // trainer_process.h; empty until it has started
};
// The first time (the trainer has not started) the file appears whole and synced: from then on, whatever happens, no other
// supervisor begins this attempt. The second time, with the trainer, it is overwritten where it lies and not synced: after a
// power failure either text says the same, that a supervisor of a former boot has been here. Who reads meanwhile sees the
// supervisor, which both name alike, and the trainer in part at worst.
void write_supervisor(const std::filesystem::path& folder, const SupervisorRecord& record);
std::optional<SupervisorRecord> read_supervisor(const std::filesystem::path& folder);

// kill.json: somebody wants the run ended. Written before the supervisor is told, so that no kill is forgotten.
struct KillRequest {
  std::string by;
  double grace = 10;             // seconds between SIGTERM and SIGKILL
};
void write_kill(const std::filesystem::path& folder, const KillRequest& request);
std::optional<KillRequest> read_kill(const std::filesystem::path& folder);

// What became of a run whose state is not final in the registry, as its folder tells.
enum class Condition {
  never_started,  // no supervisor has been in it
  coming_up,      // one holds the lock and has not said yet who it is
  alive,          // its supervisor lives
  ended,          // there is an exit record
  lost,           // its supervisor is gone and left none
};
Condition inspect(const std::filesystem::path& folder);

// Why a run is lost, in words: the machine was started anew since, or its supervisor was killed.
std::string lost_reason(const std::filesystem::path& folder);

// The state an exit record amounts to. `finished`: events.jsonl holds the event `finished` (for a trainer of kind
// "command": at least one metrics line came). Success needs both it and exit code 0.
registry::State final_state(const ExitRecord& record, bool finished, bool command_trainer);

// The last line of a file that says something, without control characters, cut to 500 bytes; empty when there is none.
std::string last_line(const std::filesystem::path& file);

}  // namespace assay::runner
