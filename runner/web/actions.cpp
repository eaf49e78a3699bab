// What the page may do when the server was started with --allow-actions: the same requests that commands make.
#include <algorithm>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/submit.h"
#include "runner/web/site.h"

namespace assay::runner::web {
namespace {

using nlohmann::json;

template <typename Value>
Value member(const json& object, const char* key, const Value& otherwise) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return otherwise;
  try {
    return found->get<Value>();
  } catch (const json::exception&) {
    throw Refusal{400, std::string(key) + ": it is not of the right type"};
  }
}

}  // namespace

json Site::act(const std::string& what, const Request& request) {
  const json body = json::parse(request.body, nullptr, false);
  if (!body.is_object()) throw Refusal{400, "the request's body is no JSON object"};
  Client client = Client::connect(paths_);        // starts the daemon if need be, as every command does
  if (what == "kill") {
    std::vector<std::int64_t> numbers;
    {
      const Lease registry = open();
      for (const std::int64_t number : member(body, "numbers", std::vector<std::int64_t>{})) {
        const auto row = registry->run(number);
        if (!row) throw Refusal{404, "there is no run " + std::to_string(number) + " in this registry"};
        if (!registry::is_final(row->state.kind)) numbers.push_back(number);
      }
    }
    if (!numbers.empty()) client.request("kill", {{"numbers", numbers}, {"by", "the web page"}, {"grace", 10.0}});
    return {{"numbers", numbers}};
  }
  if (what == "queue" || what == "retry") {
    SubmitOptions options;
    if (what == "retry") options.what.words = {std::to_string(member(body, "number", std::int64_t{0}))};
    else options.what.words = member(body, "what", std::vector<std::string>{});
    if (options.what.words.empty()) throw Refusal{400, "what: say which series or runs are to be queued"};
    options.what.seeds = member(body, "seeds", std::vector<std::int64_t>{});
    options.what.only = member(body, "only", std::vector<std::string>{});
    options.priority = member(body, "priority", std::int64_t{0});
    return {{"numbers", submit(paths_, client, options)}};
  }
  throw Refusal{404, "there is no action '" + what + "'; there are kill, queue and retry"};
}

}  // namespace assay::runner::web
