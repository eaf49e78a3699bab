// The list of executors.
#include "runner/executors/executor.h"
#include "runner/executors/local.h"
#include "runner/executors/slurm.h"

namespace assay::runner {

std::map<std::string, std::unique_ptr<Executor>> make_executors(const ExecutorContext& context) {
  std::map<std::string, std::unique_ptr<Executor>> all;
  const auto add = [&](std::unique_ptr<Executor> executor) {
    const std::string name = executor->name();
    all.emplace(name, std::move(executor));
  };
  add(std::make_unique<LocalExecutor>(context));
  add(std::make_unique<SlurmExecutor>(context));
  return all;
}

}  // namespace assay::runner
