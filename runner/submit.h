// What `run` and `add` have in common: resolve, preflight, freeze, hand over to the daemon.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runner/client.h"
#include "runner/paths.h"
#include "runner/resolve.h"

namespace assay::runner {

struct SubmitOptions {
  ResolveOptions what;
  std::vector<std::string> after;       // runs to wait for, that they succeed
  std::vector<std::string> after_any;   // runs to wait for, however they end
  std::string group;                    // instead of schedule.group
  std::vector<std::string> labels;      // K=V
  std::int64_t priority = 0;
  bool doctor = false;                  // preflight each distinct config first
  bool strict = false;                  // and refuse when it finds an error
};

// Everything that can be refused is refused before a single run is queued. Prints the preflight's warnings on stderr.
// Returns the numbers, in order, and in `labels` how each is shown ("e13g s1"). Throws UserError.
std::vector<std::int64_t> submit(const Paths& paths, Client& client, const SubmitOptions& options,
                                 std::vector<std::string>* labels = nullptr);

}  // namespace assay::runner
