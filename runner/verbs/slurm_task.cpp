#include <filesystem>
#include <memory>

#include "runner/executors/slurm_task.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_slurm_task(CLI::App& app) {
  const auto list = std::make_shared<std::filesystem::path>();
  app.add_option("LIST", *list)->required();
  return [list] { return slurm_task(std::filesystem::absolute(*list)); };
}

}  // namespace assay::runner
