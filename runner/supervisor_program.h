// Who supervises a run: a process of assay-supervise, the program beside this one that can do nothing else.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace assay::runner {

// Starts the supervisor of a run folder, detached as start_detached() does it. The program beside this one is opened when
// the first is started and never looked for again: replaced meanwhile, it stays what it was, as the daemon does. Where
// there is none, and in the test program whose fault points are to be met in supervisors as well, this very program is
// the supervisor: `assay supervise` is the same code. Throws std::runtime_error when the system has no process to give.
void start_supervisor(const std::filesystem::path& run_folder, int log, int report);

// start_detached() with another program: an open descriptor of it, which must be above 10; negative: this very one.
void start_program_detached(int program, const std::vector<std::string>& arguments, int log, int report);

}  // namespace assay::runner
