// Where everything lies. Never under a temporary folder.
#pragma once

#include <filesystem>
#include <string>

namespace assay::runner {

struct Paths {
  std::filesystem::path data;    // $ASSAY_HOME, or $XDG_DATA_HOME/assay: registry, run folders, series
  std::filesystem::path state;   // $ASSAY_HOME/state, or $XDG_STATE_HOME/assay: the daemon's log, short-lived files
  std::filesystem::path socket;  // $ASSAY_HOME/state/socket, $XDG_RUNTIME_DIR/assay/socket, or STATE/socket

  std::filesystem::path registry() const { return data / "registry.sqlite"; }
  std::filesystem::path runs() const { return data / "runs"; }
  std::filesystem::path series() const { return data / "series"; }
  // Beside the registry, which it guards: two daemons with different state folders must not share one registry.
  std::filesystem::path lock() const { return data / "daemon.lock"; }
  std::filesystem::path log() const { return state / "daemon.log"; }
  std::filesystem::path input_cache() const { return state / "checksums.json"; }
};

// From the environment; makes nothing. Throws UserError when neither HOME nor the XDG variables say where, or when the
// socket's path is longer than the 107 bytes the kernel takes.
Paths user_paths();

// Makes the folder and its parents, and sees that it can be written. Throws UserError in one sentence.
void make_folder(const std::filesystem::path& folder);

// The folder this program was started from, as far as it still is there.
std::filesystem::path program_folder();

// $ASSAY_TRAIN, or assay-train beside this program. Throws UserError when it is not there or cannot be executed.
std::filesystem::path find_trainer();

}  // namespace assay::runner
