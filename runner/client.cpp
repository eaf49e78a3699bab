#include "runner/client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "runner/daemon.h"
#include "runner/errors.h"
#include "runner/passing.h"
#include "runner/protocol.h"
#include "support/fault_point.h"

namespace assay::runner {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kStartPatience{60'000};    // until it listens, or says how far it is
constexpr milliseconds kRestorePatience{60'000};
constexpr milliseconds kReplyPatience{300'000};   // it may be writing many run folders

Fd try_connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) return Fd();
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return Fd();
  // A daemon that was killed while it started a program leaves its socket to that one until it executes: a connection is
  // taken then that nobody will ever answer. Its parent may not have looked after it yet, so it may be there as a zombie.
  ucred listener{};
  socklen_t size = sizeof listener;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &listener, &size) == 0 && listener.pid > 0 &&
      !identify(listener.pid))
    return Fd();
  return socket;
}

Fd connect_running(const Paths& paths) {
  // Where it says it listens, which another XDG_RUNTIME_DIR (cron, ssh) would not tell.
  if (const auto record = read_daemon_record(paths))
    if (Fd socket = try_connect(record->socket)) return socket;
  return try_connect(paths.socket.string());
}

// The next line that a starting daemon says; what came behind it stays in `text`. "" when it has closed the pipe.
std::string read_report(int fd, milliseconds patience, std::string& text) {
  const auto deadline = Clock::now() + patience;
  while (text.find('\n') == std::string::npos) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
    pollfd wait{fd, POLLIN, 0};
    if (left <= 0 || ::poll(&wait, 1, static_cast<int>(left)) == 0) return "slow";
    char buffer[4096];
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::exchange(text, "");
    text.append(buffer, static_cast<std::size_t>(n));
  }
  const std::string line = text.substr(0, text.find('\n'));
  text.erase(0, line.size() + 1);
  return line;
}

// Starts a daemon and waits until it, or one that was faster, is ready.
void start_daemon(const Paths& paths) {
  if (std::getenv("ASSAY_RUN_DIR") != nullptr)
    throw UserError(kDaemon, "daemon: none runs, and one that is started from inside of a run would end with that run; "
                             "type `assay daemon status` outside of it first, or any other command");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw UserError(kFault, std::string("pipe: ") + std::strerror(errno));
  Fd read_end(ends[0]), write_end(ends[1]);
  start_detached({"daemon", "--report", "3"}, -1, write_end.get());
  write_end.reset();
  std::string text, report = read_report(read_end.get(), kStartPatience, text);
  while (report.rfind("wait ", 0) == 0) report = read_report(read_end.get(), kStartPatience, text);   // it gets on
  if (report == "ready") {
    // It answers already. That what ended while there was none is in the registry is worth a minute, and no more.
    if (read_report(read_end.get(), kRestorePatience, text) == "slow")
      std::fprintf(stderr, "assay: the daemon still reads what was written while there was none; until `assay daemon status` "
                           "says that it has, tables may lack the newest steps\n");
    return;
  }
  if (report == "slow")
    throw UserError(kDaemon, "daemon: it was started and does not answer yet; look into " + paths.log().string());
  if (report.rfind("error ", 0) != 0)
    throw UserError(kDaemon, "daemon: it ended before it was ready; look into " + paths.log().string() +
                                 ", or type `assay daemon` to see why");
  char* end = nullptr;
  const long code = std::strtol(report.c_str() + 6, &end, 10);
  const std::string sentence = *end == ' ' ? end + 1 : report.substr(6);
  if (code == kDaemon) return;  // another one was faster
  throw UserError(code > 0 ? static_cast<int>(code) : kDaemon, sentence);
}

}  // namespace

std::optional<Client> Client::connect_to_running(const Paths& paths) {
  Fd socket = connect_running(paths);
  if (!socket) return std::nullopt;
  return Client(std::move(socket));
}

Client Client::connect(const Paths& paths) {
  const auto deadline = Clock::now() + kStartPatience;
  do {
    if (auto client = connect_to_running(paths)) return std::move(*client);
    start_daemon(paths);
    if (auto client = connect_to_running(paths)) return std::move(*client);
    std::this_thread::sleep_for(milliseconds(50));  // the faster one is about to listen
  } while (Clock::now() < deadline);
  throw UserError(kDaemon, "daemon: one runs on " + paths.data.string() + " but does not listen; look into " +
                               paths.log().string());
}

std::optional<std::string> Client::read_line(milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  std::size_t searched = 0;
  for (;;) {
    if (const auto end = buffer_.find('\n', searched); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    searched = buffer_.size();
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
    pollfd wait{socket_.get(), POLLIN, 0};
    const int ready = ::poll(&wait, 1, static_cast<int>(std::max<std::int64_t>(0, left)));
    if (ready < 0 && errno == EINTR) return std::nullopt;  // a signal: the caller may have something to do
    if (ready == 0) return std::nullopt;
    char buffer[1 << 16];
    const ssize_t n = ::read(socket_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      closed_ = true;
      return std::nullopt;
    }
    buffer_.append(buffer, static_cast<std::size_t>(n));
  }
}

namespace {

std::string request_text(const std::string& op, json& arguments) {
  arguments["protocol"] = kProtocol;
  arguments["op"] = op;
  return dump(arguments) + "\n";
}

UserError gone_away() {
  return UserError(kDaemon, "daemon: it went away before it answered; type the command again, it will be started");
}

}  // namespace

void Client::hand_on(const std::string& op, json arguments, int descriptor) {
  const std::string text = request_text(op, arguments);
  const ssize_t n = send_with(socket_.get(), text, descriptor);
  if (n != static_cast<ssize_t>(text.size())) throw gone_away();   // of a part nothing is done: the line has no end
  support::fault_point("client: has asked");
}

std::optional<json> Client::notice() {
  if (notices_.empty())
    if (const auto line = read_line(milliseconds(0))) notices_.push_back(json::parse(*line, nullptr, false));
  if (notices_.empty()) return std::nullopt;
  json first = std::move(notices_.front());
  notices_.pop_front();
  return first;
}

json Client::request(const std::string& op, json arguments) {
  const std::string text = request_text(op, arguments);
  const UserError gone = gone_away();
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t n = ::send(socket_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw gone;
    sent += static_cast<std::size_t>(n);
  }
  support::fault_point("client: has asked");
  const auto deadline = Clock::now() + kReplyPatience;
  for (;;) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    const auto line = read_line(left);
    if (!line && !closed_ && left.count() > 0) continue;
    if (!line) throw gone;
    const json reply = json::parse(*line, nullptr, false);
    if (!reply.is_object()) throw UserError(kDaemon, "daemon: its answer is no JSON object; type `assay daemon stop`");
    if (reply.contains("changed")) continue;  // news that came in between
    if (reply.contains("stepped_aside")) {
      notices_.push_back(reply);
      continue;
    }
    if (!reply.value("ok", false))
      throw UserError(reply.value("code", static_cast<int>(kFault)), reply.value("error", "daemon: it failed"));
    return reply;
  }
}

std::optional<std::vector<std::int64_t>> Client::next_changes(milliseconds patience) {
  const auto line = read_line(patience);
  if (!line) {
    if (closed_) return std::nullopt;
    return std::vector<std::int64_t>{};
  }
  const json message = json::parse(*line, nullptr, false);
  if (!message.is_object() || !message.contains("changed")) return std::vector<std::int64_t>{};
  return message.at("changed").get<std::vector<std::int64_t>>();
}

}  // namespace assay::runner
