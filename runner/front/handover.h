// What `assay` (front.cpp) hands to the warm process (warm.cpp), and by what either knows that the command would be the
// same there. Both are of one build and one machine, so it is memory as it lies. POSIX alone: the front has no C++ library.
#pragma once

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace assay::runner::front {

constexpr std::uint32_t kForm = 0x61640002;                 // of what follows; goes up when it changes
constexpr std::size_t kLongestText = 128 << 10;             // bytes of arguments and environment: fit in a socket's buffer
constexpr char kSuffix[] = ".add";                          // of the warm process's socket, after the daemon's

// What decides, apart from arguments, directory, environment and umask, which are handed over, what a command sees and may
// do: all of it must be equal in the two processes. What is not looked at does not show in what `add` does: priorities and
// limits of processor time or memory, terminal, session, parent, numbers of processes.
struct Sameness {
  std::uint64_t program_device, program_inode, program_bytes, program_changed, program_nanoseconds;   // assay-cli
  std::uint64_t user_namespace;                             // its number; what ids and powers mean
  std::uint64_t root_mount, root_inode;                     // each mount namespace has mounts of its own; chroot
  std::uint32_t uid, euid, gid, egid;
  std::uint32_t capabilities[2];                            // effective: they open files
  std::uint32_t group_count, groups[64];
  std::uint8_t processors[128];                             // those it may use are recorded
  char host[sizeof utsname::nodename];                      // as well
};

// Apart from the others because it can change while a process lives.
inline bool look_at_host(Sameness& self) {
  utsname names;
  if (::uname(&names) != 0) return false;
  std::memset(self.host, 0, sizeof self.host);
  std::memcpy(self.host, names.nodename, std::strlen(names.nodename));
  return true;
}

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
  // Each name below /proc/self costs a new process 10 us, a twentieth of an empty one; so there is one.
  if (::stat("/proc/self/ns/user", &status) != 0) return false;
  self.user_namespace = status.st_ino;
  struct statx root;
  if (::syscall(SYS_statx, AT_FDCWD, "/", 0, STATX_INO | STATX_MNT_ID, &root) != 0 || (root.stx_mask & STATX_MNT_ID) == 0) return false;
  self.root_mount = root.stx_mnt_id;
  self.root_inode = root.stx_ino;
  if (!look_at_host(self)) return false;
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

// The reply, of the warm process or of the daemon that it has handed the connection on to (answer.h): this, then what goes to
// standard output and what goes to standard error. `done` 0: the front is to execute the real program; nothing has been done.
struct Answer {
  std::uint32_t form, done, code, out, err;
};

}  // namespace assay::runner::front
