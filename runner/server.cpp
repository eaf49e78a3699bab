#include "runner/server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <asio/buffer.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>
#include <asio/write.hpp>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "runner/errors.h"
#include "runner/passing.h"
#include "runner/protocol.h"

namespace assay::runner {

using asio::local::stream_protocol;
using nlohmann::json;

namespace {

constexpr std::size_t kMostSessions = 256;
constexpr std::size_t kLongestBacklog = 64 << 20;   // bytes of replies that one client has not read
constexpr std::size_t kRead = 1 << 14;              // bytes of a request read at once; one run's submission is as long
constexpr std::size_t kKept = 1 << 20;              // bytes of a buffer that are kept for the next message

}  // namespace

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(asio::io_context& io, Handler handle) : acceptor(io), handler(std::move(handle)) {}
  void accept();

  stream_protocol::acceptor acceptor;
  Handler handler;
  std::set<std::shared_ptr<Session>> sessions;
};

struct Server::Session : std::enable_shared_from_this<Server::Session> {
  Session(stream_protocol::socket s, std::weak_ptr<Impl> owner) : socket(std::move(s)), server(std::move(owner)) {}

  void read() {
    socket.async_wait(stream_protocol::socket::wait_read, [self = shared_from_this()](const asio::error_code& error) {
      if (error) return self->close();
      self->take_in();
    });
  }

  // asio's own reads would drop a descriptor that comes along.
  void take_in() {
    const std::size_t have = in.size();
    in.resize(have + kRead);
    const ssize_t n = receive_with(socket.native_handle(), in.data() + have, kRead, MSG_DONTWAIT, passed);
    const bool later = n < 0 && (errno == EAGAIN || errno == EINTR);
    in.resize(have + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (later) return read();
    if (n <= 0) return close();
    answer_next();
  }

  // The first request that is whole; other sessions have their turn before the second.
  void answer_next() {
    const auto end = in.find('\n', searched);
    if (end == std::string::npos) {
      searched = in.size();
      if (searched > kLongestRequest)
        return refuse("daemon: the request is longer than " + std::to_string(kLongestRequest >> 20) + " MiB");
      return read();
    }
    const std::string line = in.substr(0, end + 1);
    in.erase(0, end + 1);
    searched = 0;
    if (in.capacity() > kKept) in.shrink_to_fit();
    answer(line);
    if (in.empty()) return read();
    asio::post(socket.get_executor(), [self = shared_from_this()] {
      if (self->socket.is_open()) self->answer_next();
    });
  }

  // Says why, and hangs up.
  void refuse(const std::string& sentence) {
    std::string().swap(in);
    leaving = true;
    send(dump(failure(sentence, kUsage)) + "\n");
  }

  void answer(const std::string& line) {
    const auto impl = server.lock();
    if (!impl) return;
    json reply;
    const json request = json::parse(line, nullptr, false);
    if (!request.is_object() || !request.contains("op")) {
      reply = failure("daemon: the request is not a JSON object with an \"op\"", kUsage);
    } else if (request.at("op") == "stop") {
      reply = impl->handler(request, Fd());  // of any version: that is how one gets rid of the other
    } else if (!request.contains("protocol") || request.at("protocol") != kProtocol) {
      reply = failure("daemon: it is of another version than this assay; type `assay daemon restart`, runs go on meanwhile",
                      kDaemon);
    } else if (request.at("op") == "watch") {
      watching = true;
      reply = {{"ok", true}};
    } else {
      reply = impl->handler(request, request.contains("front") ? std::exchange(passed, Fd()) : Fd());
    }
    if (!reply.is_null()) send(dump(reply) + "\n");
  }

  void changed(std::int64_t run) {
    if (!watching) return;
    news.insert(run);
    if (out.empty()) send_news();
  }

  void send_news() {
    if (news.empty()) return;
    const json message = {{"changed", news}};
    news.clear();
    send(dump(message) + "\n");
  }

  void send(const std::string& text) {
    const bool idle = out.empty();
    if (next.size() + text.size() > kLongestBacklog) return close();  // it asks and does not read
    next += text;
    if (idle) write();
  }

  void write() {
    out.swap(next);
    asio::async_write(socket, asio::buffer(out), [self = shared_from_this()](const asio::error_code& error, std::size_t) {
      self->out.clear();
      if (error) return self->close();
      if (self->out.capacity() > kKept) self->out.shrink_to_fit();
      if (!self->next.empty()) self->write();
      else if (self->leaving) self->close();
      else self->send_news();
    });
  }

  void close() {
    asio::error_code ignored;
    socket.close(ignored);
    if (const auto impl = server.lock()) impl->sessions.erase(shared_from_this());
  }

  stream_protocol::socket socket;
  std::weak_ptr<Impl> server;
  std::string in, out, next;     // read so far; being written; to be written after it
  std::size_t searched = 0;      // of `in`, for the end of a request
  Fd passed;                     // came last, and no request has taken it
  bool watching = false, leaving = false;
  std::set<std::int64_t> news;
};

void Server::Impl::accept() {
  acceptor.async_accept([self = shared_from_this()](const asio::error_code& error, stream_protocol::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (!error) {
      ucred peer{};
      socklen_t size = sizeof peer;
      const bool ours = ::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
                        peer.uid == ::geteuid();
      if (ours) {
        const auto session = std::make_shared<Session>(std::move(socket), self);
        self->sessions.insert(session);
        if (self->sessions.size() > kMostSessions)
          session->refuse("daemon: " + std::to_string(kMostSessions) + " commands talk to it already; wait, and type it again");
        else
          session->read();
      }
    }
    self->accept();
  });
}

Server::Server(asio::io_context& io, const std::filesystem::path& socket, Handler handler)
    : impl_(std::make_shared<Impl>(io, std::move(handler))) {
  ::unlink(socket.c_str());
  try {
    impl_->acceptor.open();
    const mode_t before = ::umask(0177);
    asio::error_code error;
    impl_->acceptor.bind(stream_protocol::endpoint(socket.string()), error);
    ::umask(before);
    if (error) throw asio::system_error(error);
    impl_->acceptor.listen();
  } catch (const asio::system_error& error) {
    throw std::runtime_error(socket.string() + ": " + error.code().message());
  }
  impl_->accept();
}

Server::~Server() {
  asio::error_code ignored;
  impl_->acceptor.close(ignored);
  const auto open = impl_->sessions;
  for (const auto& session : open) session->close();
}

void Server::changed(std::int64_t run) {
  for (const auto& session : impl_->sessions) session->changed(run);
}

}  // namespace assay::runner
