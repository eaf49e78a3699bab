// HTTP/1.1 over cpp-httplib, which only http.cpp sees: it takes long to compile.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace assay::runner::web {

struct Request {
  std::string method, path;                              // path: decoded, without the query
  std::multimap<std::string, std::string> query;         // decoded
  std::map<std::string, std::string> headers;            // names in lower case
  std::string body;

  std::string parameter(const std::string& name, const std::string& otherwise = "") const;
  std::vector<std::string> parameters(const std::string& name) const;   // in the order given
  std::string header(const std::string& name) const;     // name in lower case; empty: not sent
};

// Sends a piece of a stream; false when the other side is gone or the server is being stopped.
using Send = std::function<bool(const std::string& piece)>;

struct Response {
  int status = 200;
  std::string type = "application/json";
  std::string body;
  std::map<std::string, std::string> headers;
  // When set, the body is what this sends until it returns; it runs on a thread of its connection's own.
  std::function<void(const Send& send)> stream;
};

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 0;                                          // 0: any that is free
  int connections = 64;                                  // served at once, streams included; further ones wait
};

class HttpServer {
 public:
  // Must not throw. Called on several threads at once. HEAD comes as GET.
  using Handler = std::function<Response(const Request&)>;
  // Binds; throws std::runtime_error "HOST:PORT: REASON". Never shares a port with another program.
  HttpServer(const HttpOptions& options, Handler handler);
  ~HttpServer();
  int port() const { return port_; }
  void run();                                            // serves until stop(), not at all if that came first
  void stop();                                           // from any thread; streams end within a second
  bool stopping() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  int port_ = 0;
};

// The other end: requests to another program's server, one after the other.
class HttpClient {
 public:
  // "http://127.0.0.1:5000" or https; a path behind it goes before every path asked for. Throws std::invalid_argument when
  // it is neither. Sent with every request: `headers`.
  HttpClient(const std::string& base, std::map<std::string, std::string> headers);
  ~HttpClient();
  // A GET without a body, otherwise a POST of JSON. Throws std::runtime_error "BASE: REASON" when no answer comes.
  Response get(const std::string& path_and_query);
  Response post(const std::string& path, const std::string& json);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string percent_encoded(const std::string& text);

}  // namespace assay::runner::web
