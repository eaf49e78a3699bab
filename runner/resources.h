// What the daemon may give away, from its options, the environment and the machine.
#pragma once

#include "runner/daemon.h"
#include "runner/fleet.h"

namespace assay::runner {

// An option wins over its variable ($ASSAY_SLOTS, $ASSAY_MEMORY in MiB, $ASSAY_GPUS as "0,1" or "none",
// $ASSAY_DISK_RESERVE in GiB), that over what the machine has: all cores this process may use, all memory, the GPUs that
// the NVIDIA driver lists (those in $CUDA_VISIBLE_DEVICES where it is set), and 1 GiB kept free. Throws UserError.
Resources resources_of(const DaemonOptions& options);

}  // namespace assay::runner
