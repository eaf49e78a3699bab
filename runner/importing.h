// Runs that were never run here: records and logs of somebody else's trainer become run folders and registry rows like
// any other run's (docs/run-folder.md, "origin").
//
// The folder is written whole first, then read in by the same ingest that reads a live run's, then the run is given its
// final state, all in one transaction of the registry: after a kill there is all of an import or nothing. Safe beside a
// running daemon, which never sees such a run unfinished.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/paths.h"
#include "runner/resolve.h"

namespace assay::runner {

struct Origin {
  std::string kind;              // "records", "verl", …
  std::string source;            // name of the file it came from
  std::string sha256;            // of that file's bytes
  std::string content;           // SHA-256 of what belongs to this run alone; one that is there already is not imported again
};

struct ImportedEvaluation {      // eval/step-NNNNNN.json; the outcomes of single problems are not known
  std::int64_t step = 0, problems = 0, correct = 0;
  std::string quant = "unknown", trained_quant, data_sha256;
};

struct ImportedRun {
  registry::NewRun run;          // series, run, seed, the JSON texts; run_json without "origin", which is added
  Origin origin;
  std::vector<FrozenFile> files; // frozen beside it: the log, the records file
  std::map<std::int64_t, std::map<std::string, double>> metrics;  // step -> key -> value, as metrics.jsonl has them
  double metrics_time = 0;       // unix seconds of each metrics line; 0: not known
  std::vector<ImportedEvaluation> evaluations;
  std::vector<registry::Event> events;    // kind, message, step, time, data_json; `run` is not looked at
  registry::State state;         // final: succeeded, failed, killed, lost …
  double started = 0, ended = 0; // unix seconds; 0: not known, then the time of the import
};

struct ImportResult {
  std::vector<std::int64_t> added;      // numbers, in order
  std::vector<std::int64_t> present;    // of those that were there already
};

// Puts the series, makes the folders, reads them in. Throws std::invalid_argument when a state is not final; what the
// registry and the disk throw passes on, and nothing is left behind then.
ImportResult import_runs(const Paths& paths, const registry::SeriesRow& series,
                         const std::vector<FrozenFile>& series_files, const std::vector<ImportedRun>& runs);

// "2026-01-15" (midnight UTC) as unix seconds; 0 when it is none.
double unix_of_date(const std::string& date);

// `assay import records FILE`: reads the file (experiments/spec/records_file.h) and the series it names. Throws
// UserError with all that is wrong, one a line.
ImportResult import_records(const Paths& paths, const std::string& file);

}  // namespace assay::runner
