// The exit codes of assay-train (docs/run-folder.md), and the exceptions that lead to them.
#pragma once

#include <stdexcept>

namespace assay::train {

enum ExitCode : int {
  exit_finished = 0,
  exit_fault = 1,        // an infrastructure fault
  exit_usage = 2,        // bad command line
  exit_refused = 3,      // config or an input file is refused
  exit_non_finite = 4,
  exit_terminated = 5,   // SIGTERM or SIGINT, cleanly
  exit_findings = 6,     // doctor: findings of severity error
};

// The config or an input file is refused; what() is one sentence that says where, what, and what to do.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A loss or gradient is not finite. Thrown before the optimizer step that would have used it.
struct NonFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace assay::train
