#include "runner/passing.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace assay::runner {
namespace {

// A message of one piece of bytes with room for one descriptor.
struct Letter {
  iovec piece;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  Letter(void* bytes, std::size_t size) : piece{bytes, size} {
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
};

}  // namespace

ssize_t send_with(int socket, std::string_view bytes, int descriptor) {
  Letter letter(const_cast<char*>(bytes.data()), bytes.size());
  cmsghdr* part = CMSG_FIRSTHDR(&letter.message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof descriptor);
  std::memcpy(CMSG_DATA(part), &descriptor, sizeof descriptor);
  ssize_t n;
  while ((n = ::sendmsg(socket, &letter.message, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
  }
  return n;
}

ssize_t receive_with(int socket, void* bytes, std::size_t size, int flags, Fd& descriptor) {
  Letter letter(bytes, size);
  const ssize_t n = ::recvmsg(socket, &letter.message, flags | MSG_CMSG_CLOEXEC);
  for (cmsghdr* part = n > 0 ? CMSG_FIRSTHDR(&letter.message) : nullptr; part != nullptr; part = CMSG_NXTHDR(&letter.message, part))
    if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS && part->cmsg_len == CMSG_LEN(sizeof(int))) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
      descriptor = Fd(fd);
    }
  return n;
}

}  // namespace assay::runner
