// `assay slurm-task LIST` (not for users): what a Slurm job executes on its node.
#pragma once

#include <filesystem>

#include "runner/run_folder.h"

namespace assay::runner {

// True of an end that Slurm may have made: it signals all processes of a job, so that sometimes the trainer ends of it
// before its supervisor has heard.
bool by_signal_from_outside(const ExitRecord& record);

// Becomes the supervisor of the run in line $SLURM_ARRAY_TASK_ID of `list`. When Slurm has requeued the job, what the
// former life left is set aside first, and the run goes on from its newest checkpoint, or begins anew where there is
// none; a run that had ended by itself before is left alone. Returns the process's exit code: 0 when the run's exit
// record tells the rest. Throws std::runtime_error in one sentence, which lands in the job's log.
int slurm_task(const std::filesystem::path& list);

}  // namespace assay::runner
