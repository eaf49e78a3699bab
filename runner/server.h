// The daemon's end of its Unix socket. Single-threaded, on the given io_context.
#pragma once

#include <asio/io_context.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "runner/process.h"

namespace assay::runner {

class Server {
 public:
  // Answers one request; must not throw. The "watch" request is the server's own. `passed`: the descriptor that came with
  // the request, where it has a key "front" (front/handover.h); none otherwise. A null answer is not sent.
  using Handler = std::function<nlohmann::json(const nlohmann::json& request, const Fd& passed)>;

  // Binds and listens: mode 0600, peers of another user turned away. A socket file that a dead daemon left is replaced;
  // the caller holds the lock that says no living one uses it. Throws std::runtime_error "PATH: REASON".
  Server(asio::io_context& io, const std::filesystem::path& socket, Handler handler);
  ~Server();

  // Tells everyone who watches. Changes that come faster than a watcher reads them are told of together.
  void changed(std::int64_t run);

 private:
  struct Session;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace assay::runner
