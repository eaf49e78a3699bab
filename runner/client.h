// The command line's end of the daemon's socket.
#pragma once

#include <chrono>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runner/paths.h"
#include "runner/process.h"

namespace assay::runner {

class Client {
 public:
  // Connects to the daemon of these paths and starts one, detached, when there is none.
  // Throws UserError with the sentence the new daemon ended with.
  static Client connect(const Paths& paths);
  // Nothing when no daemon listens.
  static std::optional<Client> connect_to_running(const Paths& paths);

  // Sends {"op": op, …} and returns the reply. Throws UserError with the daemon's own sentence when it says no, and
  // when it goes away before it has answered.
  nlohmann::json request(const std::string& op, nlohmann::json arguments = nlohmann::json::object());

  // Sends {"op": op, "front": …} with a descriptor on which the daemon answers somebody else, and waits for nothing. Throws
  // UserError where the daemon has gone; it has not read it then.
  void hand_on(const std::string& op, nlohmann::json arguments, int descriptor);
  // The next message that answers nothing, as far as one is there: what the daemon says of what was handed on.
  std::optional<nlohmann::json> notice();
  bool closed() const { return closed_; }   // the daemon has gone, as the last look found

  // After request("watch"): the runs that changed, as soon as some have; empty when the time is over; nothing when the
  // daemon has gone.
  std::optional<std::vector<std::int64_t>> next_changes(std::chrono::milliseconds patience);

  // To wait on. Readable between requests (without a watch, and nothing handed on) means that the daemon has gone.
  int fd() const { return socket_.get(); }

 private:
  explicit Client(Fd socket) : socket_(std::move(socket)) {}
  // One line; empty optional: nothing within the time. Sets closed_ at the end of the stream.
  std::optional<std::string> read_line(std::chrono::milliseconds patience);

  Fd socket_;
  std::string buffer_;
  std::deque<nlohmann::json> notices_;   // came before a reply
  bool closed_ = false;
};

}  // namespace assay::runner
