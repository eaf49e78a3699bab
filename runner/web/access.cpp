#include "runner/web/access.h"

#include <arpa/inet.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace assay::runner::web {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// "[::1]:80" -> "::1", "localhost:80" -> "localhost"
std::string without_port(const std::string& host) {
  if (host.starts_with('[')) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

bool is_address(const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> bytes;
  return ::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1 || ::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

// In a time that does not tell how much of it was right.
bool same(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

const std::map<std::string, std::string>& security_headers(bool actions) {
  static const std::map<std::string, std::string> reading = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
       "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
       "require-trusted-types-for 'script'; trusted-types 'none'"},
      {"X-Content-Type-Options", "nosniff"},
      {"X-Frame-Options", "DENY"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
      {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"},
      {"Cache-Control", "no-store"},
  };
  static const std::map<std::string, std::string> acting = [] {
    auto headers = reading;
    headers["Cross-Origin-Opener-Policy"] = "same-origin";
    return headers;
  }();
  return actions ? acting : reading;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || (host.starts_with("127.") && is_address(host));
}

std::string refuse_host(const Request& request, const AccessRules& rules) {
  const std::string host = lower(without_port(request.header("host")));
  if (is_address(host) || host == "localhost" || host == lower(rules.host)) return {};
  if (!rules.machine.empty()) {
    const std::string machine = lower(rules.machine);
    if (host == machine || host.starts_with(machine + ".")) return {};
  }
  return "the name '" + host + "' is not this server's; open it by the address that `assay serve` printed";
}

std::string refuse_action(const Request& request, const AccessRules& rules) {
  if (!rules.actions) return "this server only shows; start it with `assay serve --allow-actions` to act through it";
  if (const std::string site = request.header("sec-fetch-site"); !site.empty() && site != "same-origin")
    return "the request comes from another site";
  if (const std::string origin = request.header("origin");
      !origin.empty() && lower(origin) != "http://" + lower(request.header("host")))
    return "the request comes from another origin, " + origin;
  const std::string type = request.header("content-type");
  if (type != "application/json" && !type.starts_with("application/json;"))
    return "the request is not of type application/json";
  if (!same(request.header("x-assay-token"), rules.token))
    return "the token is missing or not this server's; open the page by the address that `assay serve` printed";
  return {};
}

std::string new_token() {
  std::array<unsigned char, 32> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw std::runtime_error("the kernel gives no random bytes");
  std::string text;
  for (const unsigned char byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace assay::runner::web
