// assay-supervise: what `assay supervise` does, and nothing else. One is started for each run, so it is linked to start
// fast: statically, and without the command line, the daemon and the registry.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>

#include "runner/supervisor.h"

// supervise RUN_DIR [--report FD]; only the daemon starts it.
int main(int argc, char** argv) {
  const bool report = argc == 5 && std::strcmp(argv[3], "--report") == 0;
  if ((argc != 3 && !report) || std::strcmp(argv[1], "supervise") != 0) {
    std::fprintf(stderr, "assay-supervise: only assay's daemon starts it; type `assay --help`\n");
    return 2;
  }
  try {
    return assay::runner::supervise(std::filesystem::absolute(argv[2]), report ? std::atoi(argv[4]) : -1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "assay-supervise: %s\n", error.what());
    return 1;
  }
}
