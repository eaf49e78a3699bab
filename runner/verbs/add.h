// What `assay add` is made of, for the command and for the process that is kept warm for it (front/warm.h).
#pragma once

#include <string>
#include <vector>

#include "runner/submit.h"

namespace assay::runner {

struct AddOptions : SubmitOptions {
  bool json = false;
};

// The options of the command line `assay add …`. Throws CLI::Error where it is anything but a good one.
AddOptions read_add(int argc, char** argv);

// What is printed of runs that were added.
std::string added(const AddOptions& options, const std::vector<std::int64_t>& numbers, const std::vector<std::string>& labels);

}  // namespace assay::runner
