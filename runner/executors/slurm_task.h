// `assay slurm-task LIST` (not for users): what a Slurm job executes on its node.
#pragma once

#include <filesystem>

namespace assay::runner {

// Becomes the supervisor of the run in line $SLURM_ARRAY_TASK_ID of `list`. When Slurm has requeued the job, what the
// former life left is set aside first, and the run goes on from its newest checkpoint, or begins anew where there is
// none; a run that had ended by itself before is left alone. Returns the process's exit code: 0 when the run's exit
// record tells the rest. Throws std::runtime_error in one sentence, which lands in the job's log.
int slurm_task(const std::filesystem::path& list);

}  // namespace assay::runner
