// `assay daemon`: the one process that starts runs and writes the registry. It may be killed at any moment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runner/paths.h"
#include "runner/process.h"

namespace assay::runner {

struct DaemonOptions {
  int slots = 0;          // cores; 0: $ASSAY_SLOTS, or the machine's
  std::int64_t memory = 0;         // MiB; 0: $ASSAY_MEMORY, or the machine's
  std::string gpus = "auto";       // indices "0,1", "none", or "auto": $ASSAY_GPUS, or those of the machine
  double disk_reserve = -1;        // GiB; negative: $ASSAY_DISK_RESERVE, or 1
  int report = -1;        // a descriptor that hears "ready" or "error CODE SENTENCE"; negative: in the foreground
};

// Until SIGTERM, SIGINT or a stop request; runs go on. Throws UserError: another daemon has the data folder, a folder
// cannot be written, the registry is refused.
void run_daemon(const Paths& paths, const DaemonOptions& options);

// What a daemon says of itself in its lock file.
struct DaemonRecord {
  Identity process;
  std::string socket, log;
};
std::optional<DaemonRecord> read_daemon_record(const Paths& paths);

// A systemd user unit that runs the daemon with these paths and this very program.
std::string systemd_unit(const Paths& paths);

}  // namespace assay::runner
