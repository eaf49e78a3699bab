#include <filesystem>
#include <memory>

#include "runner/supervisor.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_supervise(CLI::App& app) {
  struct Options {
    std::filesystem::path folder;
    int report = -1;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("RUN_DIR", options->folder)->required();
  app.add_option("--report", options->report);
  return [options] { return supervise(std::filesystem::absolute(options->folder), options->report); };
}

}  // namespace assay::runner
