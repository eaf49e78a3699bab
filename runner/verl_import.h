// `assay import verl`: console logs of verl, each of their runs as an imported run (importing.h).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "registry/registry.h"
#include "runner/console/verl.h"
#include "runner/paths.h"

namespace assay::runner {

// What a log says of one of its runs beside the metrics. Pure; exposed for tests and fuzzing.
struct VerlFacts {
  nlohmann::json config;                 // the dump that verl prints at its start; null: none
  std::map<std::string, std::string> overrides;  // "data.train_batch_size" -> "128", from the command line in the log
  std::string commit;                    // as written, 7 to 40 hexadecimal digits; empty: none
  double first_time = 0, last_time = 0;  // unix seconds of the first and the last date in it, taken as UTC; 0: none
  std::int64_t planned_steps = -1;       // -1: not said
  bool said_it_ended = false;            // "Final validation metrics"
  std::string error;                     // the last line of a traceback that nothing follows
};
// `text`: the lines from the end of the run before to the beginning of the next.
VerlFacts verl_facts(std::string_view text);

// A Python literal (dict, list, tuple, text, number, True, False, None) as JSON. Nothing when it is none, or nested deeper
// than 64. `used`: how many bytes it took.
std::optional<nlohmann::json> parse_python(std::string_view text, std::size_t& used);

// Succeeded only when the log shows the end: the last planned step, or verl's own closing line. A traceback: failed.
// Everything else: lost, and `detail` says how far it came.
registry::State verl_state(const console::VerlLog::Run& run, const VerlFacts& facts);

struct VerlImportOptions {
  std::vector<std::string> files;
  std::string series;                    // id the runs are put under; empty: "verl"
  std::string run;                       // run id; empty: made from the file's name, with -2, -3 … for further runs in it
  std::string like;                      // a series file's run (e13-gsm8k/e13g-nvfp4) whose config these logs are of
  std::int64_t problems = 0;             // test problems; 0: told from the accuracies where they allow it
};
struct VerlImported {
  std::string file, run;
  std::int64_t number = 0;
  bool present = false;                  // was there already
  std::int64_t first_line = 0, last_line = 0, steps = 0;
  registry::State state;
  std::vector<std::string> missing;      // what the log does not hold
};
// Throws UserError: a file that cannot be read, or holds no step line.
std::vector<VerlImported> import_verl(const Paths& paths, const VerlImportOptions& options);

}  // namespace assay::runner
