// What a command ends with: one sentence on stderr and an exit code (docs/manual.md lists them).
#pragma once

#include <stdexcept>
#include <string>

namespace assay::runner {

enum ExitCode {
  kOk = 0,
  kFault = 1,        // infrastructure: I/O, memory, a bug
  kUsage = 2,        // bad command line
  kRefused = 3,      // a series, a config or an input is refused
  kRunsFailed = 4,   // run, wait, follow: not every run succeeded
  kNoSuchRun = 5,    // no run, or no file of it, by that name
  kFindings = 6,     // doctor found what will not work (doctor; run --strict)
  kDaemon = 7,       // the daemon cannot be started or reached, or another one runs
  kInterrupted = 130,  // Ctrl-C while following; the runs go on
};

// Thrown at the edge, caught in main. `what()` is "WHERE: WHAT; WHAT TO TYPE", without the program's name.
class UserError : public std::runtime_error {
 public:
  UserError(int code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  int code() const { return code_; }

 private:
  int code_;
};

}  // namespace assay::runner
