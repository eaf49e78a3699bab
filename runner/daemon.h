// `assay daemon`: the one process that starts runs and writes the registry. It may be killed at any moment.
#pragma once

#include <optional>
#include <string>

#include "runner/paths.h"

namespace assay::runner {

struct DaemonOptions {
  int slots = 0;          // 0: $ASSAY_SLOTS, or the machine's cores
  int report = -1;        // a descriptor that hears "ready" or "error CODE SENTENCE"; negative: in the foreground
};

// Until SIGTERM, SIGINT or a stop request; runs go on. Throws UserError: another daemon has the data folder, a folder
// cannot be written, the registry is refused.
void run_daemon(const Paths& paths, const DaemonOptions& options);

// What a daemon says of itself in its lock file.
struct DaemonRecord {
  int pid = 0;
  std::string socket, log;
};
std::optional<DaemonRecord> read_daemon_record(const Paths& paths);

}  // namespace assay::runner
