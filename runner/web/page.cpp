// The page's own files, and the one document that all its pages are.
#include <string_view>

#include "runner/protocol.h"
#include "runner/web/site.h"
#include "support/files.h"

namespace assay::runner::web {

Response file(const std::string& name, const std::string& digest, const Request& request) {
  const Asset* found = name == "index.html" ? nullptr : find_asset(name);
  if (found == nullptr) return error(404, "there is no file '" + name + "' in this program");
  Response response;
  response.type = found->type;
  const std::string bytes(found->begin, found->end);
  const std::string tag = '"' + support::sha256_hex(bytes).substr(0, 32) + '"';
  response.headers["ETag"] = tag;
  response.headers["Cache-Control"] = digest == kAssetsDigest ? "max-age=31536000, immutable" : "no-cache";
  if (request.header("if-none-match") == tag) response.status = 304;
  else response.body = bytes;
  return response;
}

Response Site::page(const std::string& script, const Request& request) {
  nlohmann::json given;
  try {
    given = {{"state", state()}};
    if (script == "runs.js" && request.query.empty()) {
      Request first;
      first.query.emplace("limit", "40");   // more than a screen holds; the script asks for the others when they are seen
      given["runs"] = runs(first);
    }
  } catch (const std::exception&) {
    given = nullptr;   // the script asks then, and shows what it is told
  }
  const Asset* document = find_asset("index.html");
  Response response;
  response.status = script == "missing.js" ? 404 : 200;
  response.type = document->type;
  response.headers["Cache-Control"] = "no-store";
  constexpr std::string_view kFolder = "/static/", kScript = "page.js", kPlace = "id=\"given\">";
  const std::string_view text(document->begin, static_cast<std::size_t>(document->end - document->begin));
  for (std::size_t at = 0; at < text.size();) {
    if (text.substr(at).starts_with(kFolder)) {
      response.body.append(kFolder).append(kAssetsDigest).append("/");
      at += kFolder.size();
      if (text.substr(at).starts_with(kScript)) {
        response.body.append(script);
        at += kScript.size();
      }
    } else if (text.substr(at).starts_with(kPlace)) {
      response.body.append(kPlace);
      // JSON has '<' only inside of strings, where no "</script" or "<!--" may be seen.
      for (const char c : dump(given)) c == '<' ? response.body.append("\\u003c") : response.body.append(1, c);
      at = text.find('<', at);
    } else {
      response.body.push_back(text[at++]);
    }
  }
  return response;
}

}  // namespace assay::runner::web
