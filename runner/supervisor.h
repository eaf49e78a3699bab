// The process that owns one run: it starts the trainer, watches it, ends it when told to, and writes the durable record
// of how it ended. It needs neither the daemon nor the registry, and outlives both.
#pragma once

#include <filesystem>

namespace assay::runner {

// `assay supervise RUN_DIR` (not for users). Returns the process's exit code.
//
// At most one supervisor ever runs a given folder: it holds the lock there as long as it lives, and one that finds
// supervisor.json or exit.json has come too late and leaves at once.
//
// `report`: a descriptor on which it says, once, in one line, what came of the start: "started", "ended" (the trainer
// could not be started: exit.json says why), "busy" (another supervisor has the run), or "error SENTENCE" (it could not
// so much as write into the folder). Negative: nobody listens.
//
// Signals: SIGTERM and SIGINT end the run as kill.json says (by whom, how much grace), or as the signal's own doing.
int supervise(const std::filesystem::path& folder, int report);

}  // namespace assay::runner
