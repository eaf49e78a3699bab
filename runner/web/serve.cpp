#include "runner/web/serve.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <thread>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/web/site.h"

namespace assay::runner::web {
namespace {

int signal_pipe = -1;

void on_signal(int) {
  const int error = errno;
  [[maybe_unused]] const auto n = ::write(signal_pipe, "", 1);
  errno = error;
}

std::string machine_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string();
}

}  // namespace

void speak_http() {}

void serve(const Paths& paths, const ServeOptions& options) {
  Client::connect(paths);   // so that there is a registry, and that what has ended meanwhile is in it
  AccessRules rules;
  rules.host = options.host;
  rules.machine = machine_name();
  rules.actions = options.allow_actions;
  if (rules.actions) rules.token = new_token();

  Live live(paths);
  Site site(paths, rules, live);
  HttpOptions http;
  http.host = options.host;
  http.port = options.port;
  std::optional<HttpServer> server;
  try {
    server.emplace(http, [&site](const Request& request) { return site.answer(request); });
  } catch (const std::runtime_error& error) {
    throw UserError(kFault, std::string("serve: ") + error.what() +
                                "; give another --port (0 takes any that is free), or --host 127.0.0.1");
  }

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe: no descriptor is left");
  const Fd read_end(ends[0]), write_end(ends[1]);
  signal_pipe = write_end.get();
  // Not blocked: a daemon that an action starts would inherit that.
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  const std::string shown = options.host.find(':') == std::string::npos ? options.host : "[" + options.host + "]";
  const std::string url = "http://" + shown + ":" + std::to_string(server->port()) + "/" +
                          (rules.actions ? "#token=" + rules.token : "");
  if (options.json) std::printf("%s\n", dump({{"url", url}, {"port", server->port()}, {"token", rules.token}}).c_str());
  else std::printf("%s\n", url.c_str());
  std::fflush(stdout);
  if (!is_loopback(options.host))
    std::fprintf(stderr, "assay: serve: it listens on %s: without password or encryption, whoever reaches this machine "
                         "sees every run, its logs and its configuration%s\n", options.host.c_str(),
                 rules.actions ? ", and whoever has the token can start and end runs" : "");

  std::thread serving([&] { server->run(); });
  // poll() and not read(): a read is begun again after a signal, and ThreadSanitizer, which puts handlers off until the
  // program next calls what it knows to wait, then waits for ever.
  pollfd told{read_end.get(), POLLIN, 0};
  while (::poll(&told, 1, -1) < 0 && errno == EINTR) {
  }
  server->stop();
  live.stop();
  serving.join();
}

}  // namespace assay::runner::web
