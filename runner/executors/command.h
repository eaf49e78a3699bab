// A program that is run to its end beside the daemon's other work: sbatch, squeue, scancel.
#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <string>
#include <vector>

namespace assay::runner {

struct CommandResult {
  int code = -1;             // exit code; 128 + signal; -1: it could not be started, or had to be ended for its time
  std::string out, err;      // at most 16 MiB each; what is more is cut off
};

// Starts argv[0], looked for in PATH, with `input` on its standard input, and calls `done` once on the io_context when it
// has ended. After `seconds` it is killed: code -1, and `err` says so. Never throws; `done` must not.
void run_command(asio::io_context& io, const std::vector<std::string>& argv, const std::string& input, double seconds,
                 std::function<void(CommandResult)> done);

}  // namespace assay::runner
