// Processes: who they are, starting them detached, ending them without ever hitting a stranger.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace assay::runner {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  void reset();
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// A pid names a process only together with the boot it ran in and the moment it started.
struct Identity {
  std::string boot_id;
  pid_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot, field 22 of /proc/PID/stat
  bool operator==(const Identity&) const = default;
};

std::string boot_id();
// Nothing when there is no such process or only its zombie is left.
std::optional<Identity> identify(pid_t pid);

// A pidfd of exactly that process, or an empty Fd when it is gone (or another process has its number).
Fd open_process(const Identity& identity);
// Through the pidfd; false when the process is gone.
bool signal_process(const Fd& pidfd, int signal);

// flock on a file, made when missing; held until the object goes.
class FileLock {
 public:
  // Nothing when another process holds it. Throws std::runtime_error "PATH: REASON" on anything else.
  static std::optional<FileLock> try_take(const std::filesystem::path& file);
  // True while some process holds it. Never makes the file.
  static bool is_held(const std::filesystem::path& file);
  int fd() const { return fd_.get(); }

 private:
  explicit FileLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

// Starts this very program (also when its file was replaced meanwhile) with the given arguments, detached: double fork,
// own session, no descriptor but stdin and stdout (/dev/null), stderr (`log`), and `report` as descriptor 3. Nothing of
// the environment by which a run's processes are known (ASSAY_RUN_DIR) is passed on.
// Throws std::runtime_error when the system has no process to give.
void start_detached(const std::vector<std::string>& arguments, int log, int report);

// All living descendants of this process (zombies not counted), by the parent links in /proc.
std::vector<Identity> descendants();

// Ends (SIGKILL) every process of this user whose environment holds `entry` ("NAME=value"), and returns how many.
// What is left of a run whose supervisor was killed carries the run folder in its environment.
int end_by_environment(const std::string& entry);

double unix_now();
// 2026-11-23T01:56:39Z
std::string iso_time(double unix_seconds);

}  // namespace assay::runner
