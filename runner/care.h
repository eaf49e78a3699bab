// Looking after the registry: checked against the run folders, rebuilt from them, brought up to date with them.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/paths.h"

namespace assay::runner {

struct Finding {
  std::string where;       // "run 17", a path
  std::string what;        // the fault
  std::string todo;        // what to type or do
};

// Integrity and foreign keys; each run's row, states, frozen files and ingested files against its folder; folders without
// a row; series and records against their files. `deep`: also builds a second registry from the folders, in a scratch file
// beside this one, and compares every metric, evaluation, event, document, attempt and record. Reads only. A run that has
// not ended may have changed while it was looked at; of such a one only the frozen files are checked.
std::vector<Finding> check_registry(const Paths& paths, const registry::Registry& registry, bool deep);

struct Rebuilt {
  std::size_t series = 0, runs = 0, records = 0;
  std::filesystem::path former;          // where the registry that was there lies now; empty: there was none
  std::vector<std::string> remarks;      // what could not be taken in, and why; one sentence each
};
// Makes the registry anew from the series' and the runs' folders alone. The one that is there, whole or damaged, is kept
// beside it. Throws UserError while a daemon runs; nothing has been changed then, nor after any other exception.
Rebuilt rebuild_registry(const Paths& paths);

// At the daemon's start: checks that the file is sound, gives runs of an older assay their journal of states, and takes in
// records and limits of groups that a killed daemon had written and not yet read. `tell` hears now and then how far it is.
// Throws UserError when the file is damaged.
void catch_up(const Paths& paths, registry::Registry& registry, const std::function<void(const std::string&)>& tell);
// Throws UserError when there are run folders and no registry: a new one would begin empty.
void refuse_to_forget(const Paths& paths);

// Runs that must not be deleted, and why ("a verdict speaks of it"): what a record is about, the newest runs of each seed
// of a cause's pair, the runs that a verification compared, and the baselines of all these.
std::map<std::int64_t, std::string> cited_runs(const registry::Registry& registry);

}  // namespace assay::runner
