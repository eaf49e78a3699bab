#include "runner/supervisor_program.h"

#include <fcntl.h>
#include <unistd.h>

#include "runner/paths.h"
#include "runner/process.h"
#include "support/fault_point.h"

namespace assay::runner {
namespace {

int open_program() {
  if (assay_fault_hook != nullptr) return -1;
  const Fd file(::open((program_folder() / "assay-supervise").c_str(), O_PATH | O_CLOEXEC));
  return file && ::faccessat(AT_FDCWD, (program_folder() / "assay-supervise").c_str(), X_OK, 0) == 0
             ? ::fcntl(file.get(), F_DUPFD_CLOEXEC, 11)
             : -1;
}

}  // namespace

void start_supervisor(const std::filesystem::path& run_folder, int log, int report) {
  static const int program = open_program();
  start_program_detached(program, {"supervise", run_folder.string(), "--report", "3"}, log, report);
}

}  // namespace assay::runner
