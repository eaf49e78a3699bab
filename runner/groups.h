// groups.json in the data folder: the limits of the queue's groups, {"name": runs at once}. Like every record it is a file
// before it is in the registry, which can be rebuilt from it.
#pragma once

#include <map>
#include <string>

#include "registry/registry.h"
#include "runner/paths.h"

namespace assay::runner {

// Empty where there is no file. Throws std::runtime_error "FILE: REASON" when it is not what write_groups() writes.
std::map<std::string, int> read_groups(const Paths& paths);
// Survives a power cut when it returns.
void write_groups(const Paths& paths, const std::map<std::string, int>& limits);
// The registry as the file has it; of an older assay, which wrote none, the file as the registry has it.
void restore_groups(const Paths& paths, registry::Registry& registry);

}  // namespace assay::runner
