// The trainer as a child process of the supervisor.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace assay::runner {

struct Launch {
  std::vector<std::string> argv;
  std::vector<std::string> environment;   // NAME=value, on top of this process's own
  std::filesystem::path work_folder;
  std::filesystem::path stdout_file, stderr_file;
};

// What to start for the run in `folder`, from config.json and run.json. Throws std::runtime_error with one sentence when
// the folder is not whole: config.json must have the hash in config.sha256.
Launch plan_launch(const std::filesystem::path& folder);

// Starts it in a session of its own, to be killed when this process dies, its signal mask clear. Returns its pid, once
// the program is executing. Throws std::runtime_error "PROGRAM: REASON".
pid_t launch(const Launch& plan);

}  // namespace assay::runner
