#include "runner/executors/slurm_task.h"

#include <csignal>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "runner/attempts.h"
#include "runner/run_folder.h"
#include "runner/supervisor.h"
#include "support/files.h"

namespace assay::runner {

namespace fs = std::filesystem;

namespace {

int number_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::atoi(text);
}

fs::path run_of(const fs::path& list) {
  if (std::getenv("SLURM_ARRAY_TASK_ID") == nullptr)
    throw std::runtime_error("SLURM_ARRAY_TASK_ID is not set; only a Slurm job that assay submitted calls slurm-task");
  const int task = number_in("SLURM_ARRAY_TASK_ID");
  std::istringstream lines(support::read_file(list));
  std::string line;
  for (int i = 0; i <= task; ++i)
    if (!std::getline(lines, line)) throw std::runtime_error(list.string() + ": it has no run for task " + std::to_string(task));
  return line;
}

// Killed by Slurm, or its node died: nobody of ours had asked for it.
bool was_cut_off(const fs::path& folder) {
  if (fs::exists(folder / "kill.json")) return false;
  const auto record = read_exit(folder);
  return record ? by_signal_from_outside(*record) : fs::exists(folder / "supervisor.json");
}

}  // namespace

bool by_signal_from_outside(const ExitRecord& record) {
  const auto one_of = [](std::optional<int> number, int base) {
    return number && (*number == base + SIGTERM || *number == base + SIGKILL);
  };
  // 143: a shell whose last command was ended so.
  return record.kind == "killed" || (record.kind == "signalled" && one_of(record.signal, 0)) ||
         (record.kind == "exited" && one_of(record.code, 128));
}

int slurm_task(const fs::path& list) {
  const fs::path folder = run_of(list);
  if (const int restart = number_in("SLURM_RESTART_COUNT"); restart > 0 && was_cut_off(folder)) {
    if (FileLock::is_held(folder / "lock")) throw std::runtime_error(folder.string() + ": its former supervisor still lives");
    LaunchRecord launch = read_launch(folder);
    launch.resume = has_checkpoint(folder);
    set_aside(folder, launch.attempt, !launch.resume, restart);
    write_launch(folder, launch);
  }
  return supervise(folder, -1);
}

}  // namespace assay::runner
