// What `assay` (front.cpp) hands to the warm process (warm.cpp), and by what either knows that the command would be the
// same there. Both are of one build and one machine, so it is memory as it lies. POSIX alone: the front has no C++ library.
#pragma once

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace assay::runner::front {

constexpr std::uint32_t kForm = 0x61640001;                 // of what follows; goes up when it changes
constexpr std::size_t kLongestText = 128 << 10;             // bytes of arguments and environment: fit in a socket's buffer
constexpr char kSuffix[] = ".add";                          // of the warm process's socket, after the daemon's

// What decides, apart from arguments, directory, environment and umask, which are handed over, what a command sees and may
// do: all of it must be equal in the two processes. What is not looked at does not show in what `add` does: priorities and
// limits of processor time or memory, terminal, session, parent.
struct Sameness {
  std::uint64_t program_device, program_inode, program_bytes, program_changed, program_nanoseconds;   // assay-cli
  std::uint64_t namespaces[4];                              // mnt, pid, user, uts (the host's name is recorded)
  std::uint64_t root_device, root_inode;                    // chroot
  std::uint32_t uid, euid, gid, egid;
  std::uint32_t capabilities[2];                            // effective: they open files
  std::uint32_t group_count, groups[64];
  std::uint8_t processors[128];                             // those it may use are recorded
};

// False where it cannot be told.
inline bool look_at_self(const char* program, Sameness& self) {
  std::memset(&self, 0, sizeof self);
  struct stat status;
  if (::stat(program, &status) != 0) return false;
  self.program_device = status.st_dev;
  self.program_inode = status.st_ino;
  self.program_bytes = static_cast<std::uint64_t>(status.st_size);
  self.program_changed = static_cast<std::uint64_t>(status.st_mtim.tv_sec);
  self.program_nanoseconds = static_cast<std::uint64_t>(status.st_mtim.tv_nsec);
  static const char* const kNamespaces[4] = {"/proc/self/ns/mnt", "/proc/self/ns/pid", "/proc/self/ns/user", "/proc/self/ns/uts"};
  for (int i = 0; i < 4; ++i) {
    if (::stat(kNamespaces[i], &status) != 0) return false;
    self.namespaces[i] = status.st_ino;
  }
  if (::stat("/", &status) != 0) return false;
  self.root_device = status.st_dev;
  self.root_inode = status.st_ino;
  self.uid = ::getuid();
  self.euid = ::geteuid();
  self.gid = ::getgid();
  self.egid = ::getegid();
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  self.capabilities[0] = data[0].effective;
  self.capabilities[1] = data[1].effective;
  const int groups = ::getgroups(64, self.groups);
  if (groups < 0) return false;
  self.group_count = static_cast<std::uint32_t>(groups);
  return ::syscall(SYS_sched_getaffinity, 0, sizeof self.processors, self.processors) > 0;
}

// The message: this, with the working directory's descriptor, then `bytes` of text: argc arguments, then the environment,
// each ended by a zero.
struct Handover {
  std::uint32_t form, argc, words, bytes, umask;
  Sameness same;
};

// The reply: this, then what goes to standard output and what goes to standard error. `done` 0: the front is to execute
// the real program; nothing has been asked of the daemon.
struct Answer {
  std::uint32_t form, done, code, out, err;
};

}  // namespace assay::runner::front
