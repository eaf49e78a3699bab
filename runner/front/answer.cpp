#include "runner/front/answer.h"

#include <sys/socket.h>

#include <cerrno>

#include "runner/front/handover.h"

namespace assay::runner::front {
namespace {

void send_all(int connection, const Answer& head, const std::string& texts, int flags) {
  const std::string message = std::string(reinterpret_cast<const char*>(&head), sizeof head) + texts;
  for (std::size_t sent = 0; sent < message.size();) {
    const ssize_t n = ::send(connection, message.data() + sent, message.size() - sent, MSG_NOSIGNAL | flags);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    sent += static_cast<std::size_t>(n);
  }
}

}  // namespace

void answer_done(int connection, int code, const std::string& out, const std::string& err, int flags) {
  send_all(connection, {kForm, 1, static_cast<std::uint32_t>(code), static_cast<std::uint32_t>(out.size()),
                        static_cast<std::uint32_t>(err.size())}, out + err, flags);
}

void answer_step_aside(int connection, int flags) { send_all(connection, {kForm, 0, 0, 0, 0}, "", flags); }

}  // namespace assay::runner::front
