// Keys that are right one by one and do not go together.
#pragma once

#include "experiments/spec/resolve.h"

namespace assay::spec {

// Reports at the key of the combination that was set last; at the run where none was. `layers` -1: not known.
void check_config(const Settled& settled, const Mark& run, std::int64_t layers, Diagnostics& wrong);

}  // namespace assay::spec
