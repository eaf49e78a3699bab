// The series format (TOML) and its reader: docs/series.md describes it for users.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "experiments/spec/config.h"

namespace assay::spec {

struct Published {              // accuracy in percent as somebody else reported it
  std::optional<double> first;  // at step 0
  std::optional<double> last;   // at the last step reported
};

struct RunSpec {
  std::string id;               // unique in the series: [a-z0-9][a-z0-9._-]*
  std::string title;
  std::string hypothesis;
  std::string change;           // the one change against the baseline, in words; made from `changed` when not given
  std::string baseline;         // run id in this series or in the one it is based on; empty: none
  std::string baseline_series;  // id of the series that run stands in; empty: no baseline
  std::map<std::string, std::string> changed;  // key -> "old -> new" against the baseline's config, as JSON text
  Published published;
  std::string verdict, conclusion;             // as written in the file, if they were
  Config config;
  Derived derived;
};

struct Cause {                  // a cause to rule out by one pair of runs
  std::string name;             // e.g. "batch size"
  std::string run, against;     // run ids
  std::string note;
};

struct SourceFile {             // a file as it was when it was read
  std::filesystem::path path;
  std::string text;
};

struct Series {
  std::string id;
  std::string title, goal, notes;
  std::vector<std::string> dates, next_steps;
  double success_accuracy = 50; // percent at the last step from which a run counts as a success
  double cause_margin = 0.10;   // share of the effect of the cause found within which a cause is ruled out
  std::vector<Cause> causes;
  std::vector<RunSpec> runs;    // in file order
  std::filesystem::path file;   // the file read
  std::string source;           // its text
  std::vector<SourceFile> bases;  // the files of the series it is based on, directly or not, each once
};

struct Diagnostic {
  std::string file;
  int line = 0, column = 0;     // 1-based; 0: the file as a whole
  std::string message;          // what; what was expected; did you mean
  std::string text() const;     // file:line:column: message
};

using Diagnostics = std::vector<Diagnostic>;

// Overrides applied on top of every run: the command line's --set KEY=VALUE; VALUE is a TOML value, or a bare string.
struct Override {
  std::string key, value;
};

// Reads and resolves a series. Result: the series, or either the one syntax error TOML stops at or all semantic errors.
// `file` may be a series file, or a file of a single run that names its base (docs/series.md).
// Series named inside the file are looked up by resolve_series().
// Diagnostics come in the order of the file, those of other files after it, those of overrides last.
std::variant<Series, Diagnostics> read_series(const std::filesystem::path& file,
                                              const std::vector<Override>& overrides = {});

// A resolved configuration with overrides on top: what `assay edit --set` makes of a run that waits. Paths that are not
// overridden stay where `derived` has them.
struct Overridden {
  Config config;
  Derived derived;
};
std::variant<Overridden, Diagnostics> with_overrides(const Config& config, const Derived& derived,
                                                     const std::vector<Override>& overrides);

// Finds a series by what the user typed: a path to a .toml file, or an id looked up as DIR/ID/ID.toml and DIR/ID.toml
// in ./experiments, in each folder of $ASSAY_EXPERIMENTS (colon-separated) and in the folder this build came from.
// On failure the diagnostic says which series there are.
std::variant<std::filesystem::path, Diagnostic> resolve_series(const std::string& name);

// Ids of all series found in the places resolve_series() looks in, sorted.
std::vector<std::string> list_series();

// One sentence that says what is missing to run this on this machine and how to get it; empty: nothing is.
// Looks at the model folder, the data files and the device; for trainer.kind "command", at the program.
std::string missing_to_run(const Config& config, const Derived& derived);

}  // namespace assay::spec
