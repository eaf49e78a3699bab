#include "runner/paths.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "runner/errors.h"
#include "support/looks.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestSocketPath = 107;  // sizeof(sockaddr_un::sun_path) less its zero

std::optional<fs::path> folder_of(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return fs::path(value);
}

// The XDG specification: a relative path in one of its variables is not valid and is passed over.
fs::path xdg(const char* variable, const char* under_home) {
  if (const auto folder = folder_of(variable); folder && folder->is_absolute()) return *folder / "assay";
  const auto home = folder_of("HOME");
  if (!home || !home->is_absolute())
    throw UserError(kFault, std::string("environment: HOME is not set, so there is no place to keep runs; set HOME, ") +
                                variable + " or ASSAY_HOME");
  return *home / under_home / "assay";
}

}  // namespace

Paths user_paths() {
  Paths paths;
  if (const auto home = folder_of("ASSAY_HOME")) {
    paths.data = fs::absolute(*home).lexically_normal();
    if (!paths.data.has_filename()) paths.data = paths.data.parent_path();
    paths.state = paths.data / "state";
    paths.socket = paths.state / "socket";
  } else {
    paths.data = xdg("XDG_DATA_HOME", ".local/share");
    paths.state = xdg("XDG_STATE_HOME", ".local/state");
    const auto runtime = folder_of("XDG_RUNTIME_DIR");
    std::error_code ignored;
    if (runtime && runtime->is_absolute() && fs::is_directory(*runtime, ignored))
      paths.socket = *runtime / "assay" / "socket";
    else
      paths.socket = paths.state / "socket";
  }
  if (paths.socket.string().size() > kLongestSocketPath)
    throw UserError(kDaemon, paths.socket.string() + ": the daemon's socket cannot have a path of more than " +
                                 std::to_string(kLongestSocketPath) + " bytes; set " +
                                 (std::getenv("ASSAY_HOME") ? "ASSAY_HOME" : "XDG_RUNTIME_DIR") + " to a shorter one");
  return paths;
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && !fs::is_directory(folder, error) && !error) error = std::make_error_code(std::errc::not_a_directory);
  if (!error && ::access(folder.c_str(), R_OK | W_OK | X_OK) != 0)
    error = std::error_code(errno, std::generic_category());
  if (error)
    throw UserError(kFault, folder.string() + ": cannot be written (" + error.message() +
                                "); make it writable, or set ASSAY_HOME to a folder that is");
}

fs::path program_folder() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path() : program.parent_path();
}

fs::path find_trainer() {
  const auto given = folder_of("ASSAY_TRAIN");
  const fs::path trainer = given ? fs::absolute(*given) : program_folder() / "assay-train";
  if (!support::may_execute(trainer) || support::is_folder_at(trainer))
    throw UserError(kFault, trainer.string() + ": the trainer is not there or cannot be executed; " +
                                (given ? "correct ASSAY_TRAIN, or unset it to use the one beside assay"
                                       : "build it (make build), or set ASSAY_TRAIN to it"));
  return trainer;
}

}  // namespace assay::runner
