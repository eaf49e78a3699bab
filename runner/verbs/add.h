// What `assay add` is made of, for the command and for the process that is kept warm for it (front/warm.h).
#pragma once

#include "runner/submit.h"

namespace assay::runner {

struct AddOptions : SubmitOptions {
  bool json = false;
};

// The options of the command line `assay add …`. Throws CLI::Error where it is anything but a good one.
AddOptions read_add(int argc, char** argv);

}  // namespace assay::runner
