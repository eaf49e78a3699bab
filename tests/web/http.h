// A plain HTTP/1.1 client for the tests: what goes over the wire is what they say, headers included.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>

#include "catch.h"

namespace assay::test {

struct Answer {
  int status = 0;
  std::map<std::string, std::string> headers;   // names in lower case
  std::string body;
};

class Connection {
 public:
  explicit Connection(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }
  ~Connection() { ::close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send(const std::string& text) const {
    REQUIRE(::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
  }
  // Reads on until `text` holds `word`, the other side closes (false), or two minutes are over (false).
  bool read_until(std::string& text, const std::string& word) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (text.find(word) == std::string::npos) {
      pollfd wait{fd_, POLLIN, 0};
      if (std::chrono::steady_clock::now() > deadline || ::poll(&wait, 1, 1000) < 0) return false;
      if (wait.revents == 0) continue;
      char buffer[1 << 16];
      const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return false;
      text.append(buffer, static_cast<std::size_t>(n));
    }
    return true;
  }

 private:
  int fd_;
};

using Headers = std::map<std::string, std::string>;

inline Answer ask(int port, const std::string& method, const std::string& target, Headers headers = {},
                  const std::string& body = "") {
  headers.emplace("Host", "127.0.0.1:" + std::to_string(port));
  headers["Connection"] = "close";
  if (!body.empty() || method != "GET") headers["Content-Length"] = std::to_string(body.size());
  std::string text = method + " " + target + " HTTP/1.1\r\n";
  for (const auto& [name, value] : headers) text += name + ": " + value + "\r\n";
  const Connection connection(port);
  connection.send(text + "\r\n" + body);
  std::string got;
  connection.read_until(got, std::string(1, '\0') + "never comes");
  Answer answer;
  const std::size_t end = got.find("\r\n\r\n");
  REQUIRE(end != std::string::npos);
  answer.status = std::stoi(got.substr(got.find(' ') + 1));
  for (std::size_t at = got.find("\r\n") + 2; at < end;) {
    const std::size_t line = got.find("\r\n", at), colon = got.find(": ", at);
    std::string name = got.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    answer.headers[name] = got.substr(colon + 2, line - colon - 2);
    at = line + 2;
  }
  answer.body = got.substr(end + 4);
  return answer;
}

}  // namespace assay::test
