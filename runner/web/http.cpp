#include "runner/web/http.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace assay::runner::web {

std::string Request::parameter(const std::string& name, const std::string& otherwise) const {
  const auto found = query.find(name);
  return found == query.end() ? otherwise : found->second;
}

std::vector<std::string> Request::parameters(const std::string& name) const {
  std::vector<std::string> values;
  for (auto [at, end] = query.equal_range(name); at != end; ++at) values.push_back(at->second);
  return values;
}

std::string Request::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

struct HttpServer::Impl {
  httplib::Server server;
  Handler handler;
  std::mutex beginning;
  bool begun = false;
  std::atomic<bool> stopping{false}, ended{false};

  void answer(const httplib::Request& in, httplib::Response& out) {
    Request request;
    request.method = in.method == "HEAD" ? "GET" : in.method;
    request.path = in.path;
    for (const auto& [name, value] : in.params) request.query.emplace(name, value);
    for (const auto& [name, value] : in.headers) {
      std::string lower = name;
      std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
      request.headers.emplace(lower, value);
    }
    request.body = in.body;
    Response response = handler(request);
    out.status = response.status;
    for (const auto& [name, value] : response.headers) out.set_header(name, value);
    if (!response.stream) {
      if (response.body.empty()) return out.set_content("", response.type);
      // By a provider of known length, which httplib does not compress: Brotli takes a tenth of a second for a page, and the
      // way to this machine's browser is short.
      const auto body = std::make_shared<const std::string>(std::move(response.body));
      return out.set_content_provider(body->size(), response.type, [body](std::size_t from, std::size_t length, httplib::DataSink& sink) {
        return sink.write(body->data() + from, length);
      });
    }
    out.set_chunked_content_provider(
        response.type, [this, stream = std::move(response.stream)](std::size_t, httplib::DataSink& sink) {
          stream([&](const std::string& piece) {
            if (stopping || !sink.is_writable()) return false;
            return piece.empty() || sink.write(piece.data(), piece.size());
          });
          sink.done();
          return true;
        });
  }
};

HttpServer::HttpServer(const HttpOptions& options, Handler handler) : impl_(std::make_unique<Impl>()) {
  impl_->handler = std::move(handler);
  httplib::Server& server = impl_->server;
  server.new_task_queue = [options] { return new httplib::ThreadPool(static_cast<std::size_t>(options.connections)); };
  // httplib's own choice, SO_REUSEPORT, would let two programs take turns answering on one port.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_tcp_nodelay(true);
  server.set_payload_max_length(1 << 20);
  const auto answer = [this](const httplib::Request& in, httplib::Response& out) { impl_->answer(in, out); };
  for (auto method : {&httplib::Server::Get, &httplib::Server::Options}) (server.*method)(".*", answer);
  server.Post(".*", answer);
  server.Put(".*", answer);
  server.Patch(".*", answer);
  server.Delete(".*", answer);
  errno = 0;
  if (options.port == 0) port_ = server.bind_to_any_port(options.host);
  else port_ = server.bind_to_port(options.host, options.port) ? options.port : -1;
  if (port_ <= 0)
    throw std::runtime_error(options.host + ":" + std::to_string(options.port) + ": " +
                             (errno != 0 ? std::strerror(errno) : "it cannot be listened on"));
}

HttpServer::~HttpServer() = default;

void HttpServer::run() {
  {
    const std::lock_guard lock(impl_->beginning);
    if (impl_->stopping) return;
    impl_->begun = true;
  }
  impl_->server.listen_after_bind();
  impl_->ended = true;
}

// httplib takes no notice of a stop() that comes before it listens.
void HttpServer::stop() {
  {
    const std::lock_guard lock(impl_->beginning);
    impl_->stopping = true;
    if (!impl_->begun) return;
  }
  while (!impl_->server.is_running() && !impl_->ended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  impl_->server.stop();
}

bool HttpServer::stopping() const { return impl_->stopping; }

struct HttpClient::Impl {
  std::string base, prefix;
  httplib::Headers headers;
  std::unique_ptr<httplib::Client> client;

  Response taken(const httplib::Result& result) const {
    if (!result) throw std::runtime_error(base + ": no answer (" + httplib::to_string(result.error()) + ")");
    Response response;
    response.status = result->status;
    response.body = result->body;
    return response;
  }
};

HttpClient::HttpClient(const std::string& base, std::map<std::string, std::string> headers)
    : impl_(std::make_unique<Impl>()) {
  const std::size_t scheme = base.starts_with("http://") ? 7 : base.starts_with("https://") ? 8 : 0;
  if (scheme == 0 || base.size() == scheme) throw std::invalid_argument(base + ": it is no address such as http://127.0.0.1:5000");
  const std::size_t slash = std::min(base.find('/', scheme), base.size());
  impl_->base = base;
  impl_->prefix = base.substr(slash);
  while (impl_->prefix.ends_with('/')) impl_->prefix.pop_back();
  for (const auto& [name, value] : headers) impl_->headers.emplace(name, value);
  impl_->client = std::make_unique<httplib::Client>(base.substr(0, slash));
  if (!impl_->client->is_valid()) throw std::invalid_argument(base + ": it is no address such as http://127.0.0.1:5000");
  impl_->client->set_keep_alive(true);
  impl_->client->set_read_timeout(120);
}

HttpClient::~HttpClient() = default;

Response HttpClient::get(const std::string& path_and_query) {
  return impl_->taken(impl_->client->Get(impl_->prefix + path_and_query, impl_->headers));
}

Response HttpClient::post(const std::string& path, const std::string& json) {
  return impl_->taken(impl_->client->Post(impl_->prefix + path, impl_->headers, json, "application/json"));
}

std::string percent_encoded(const std::string& text) {
  std::string encoded;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || (c != 0 && std::strchr("-_.~", c) != nullptr)) {
      encoded += c;
      continue;
    }
    encoded += '%';
    encoded += "0123456789ABCDEF"[static_cast<unsigned char>(c) >> 4];
    encoded += "0123456789ABCDEF"[static_cast<unsigned char>(c) & 15];
  }
  return encoded;
}

}  // namespace assay::runner::web
