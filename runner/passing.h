// A descriptor that goes along with bytes over a Unix socket.
#pragma once

#include <sys/types.h>

#include <string_view>

#include "runner/process.h"

namespace assay::runner {

// sendmsg() with MSG_NOSIGNAL, repeated when a signal comes before anything is sent.
ssize_t send_with(int socket, std::string_view bytes, int descriptor);
// recvmsg(): up to `size` bytes, and the descriptor that came with them, if one did (close-on-exec).
ssize_t receive_with(int socket, void* bytes, std::size_t size, int flags, Fd& descriptor);

}  // namespace assay::runner
