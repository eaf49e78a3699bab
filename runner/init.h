// The small init between a supervisor and its trainer. Used by trainer_process.cpp alone.
#pragma once

#include <cstdint>

namespace assay::runner::init {

// What goes over the channel, a SOCK_SEQPACKET pair: one message a packet.
struct Command {                 // supervisor -> init
  std::int32_t signal;           // to the trainer's process group; 0: none
  std::int32_t grace_ms;         // for what the trainer leaves behind; negative: unchanged
};
struct Ended {                   // init -> supervisor
  std::int32_t exited, status;
  double when;
};

// What goes over the pipe when something cannot be done; it ends without a word when the program is executing.
enum class Stage : std::int32_t { isolation, chdir, exec };
struct Failure {
  Stage stage;
  std::int32_t error;            // errno
  char what[64];                 // the call, for isolation
};

// What the child needs, prepared before the fork: it must not allocate.
struct Setup {
  bool isolated;                 // it is process 1 of new PID and mount namespaces
  bool user_namespace;           // and of a new user namespace, whose maps are not written yet
  unsigned uid, gid;             // ours, outside
  int channel, failures, in, out, err;
  char* const* argv;
  char* const* envp;
  const char* work_folder;
};

// The init's whole life. Never returns.
[[noreturn]] void run(const Setup& setup);

}  // namespace assay::runner::init
