// Who may see the page, and who may act through it. Pure.
#pragma once

#include <map>
#include <string>

#include "runner/web/http.h"

namespace assay::runner::web {

struct AccessRules {
  std::string host = "127.0.0.1";   // what the server listens on
  std::string machine;              // the machine's own name
  bool actions = false;
  std::string token;                // that every action must carry
};

// Sent with every answer. Scripts, styles and requests from this server only; no inline script or style, no frame around
// the page, nothing kept in a cache that the server has not named. Where there are actions, the page that holds their token
// also shares no process with a page that opened it; for that a browser gives up the process which it had made ready when
// the answer comes, 15 to 20 ms of a first page here, so a page that is only read does without.
const std::map<std::string, std::string>& security_headers(bool actions);

// Why the request is turned away; empty: it is not. The Host header must be an IP address, localhost, the name that was
// given with --host or the machine's own: another name means that some web site's name was made to point here (DNS
// rebinding), so that its scripts would count as of this origin.
std::string refuse_host(const Request& request, const AccessRules& rules);

// Why an action is turned away; empty: it is not. It needs --allow-actions, the token in X-Assay-Token, JSON as its type
// (which no form of another site can send), and, where the browser names them, an Origin that is this server and
// Sec-Fetch-Site same-origin.
std::string refuse_action(const Request& request, const AccessRules& rules);

// 256 bits from the kernel, in hexadecimal digits.
std::string new_token();

bool is_loopback(const std::string& host);

}  // namespace assay::runner::web
