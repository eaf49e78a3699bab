#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_group(CLI::App& app) {
  struct Options {
    std::string name, limit;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("NAME", options->name, "the group; none: list them");
  app.add_option("LIMIT", options->limit, "runs of it that may go at once (0: none start), or `none` for no limit");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    if (!options->limit.empty()) {
      nlohmann::json limit = nullptr;
      if (options->limit != "none") {
        int number = -1;
        const char* end = options->limit.data() + options->limit.size();
        const auto [last, error] = std::from_chars(options->limit.data(), end, number);
        if (error != std::errc() || last != end || number < 0)
          throw UserError(kUsage, "group " + options->name + ": '" + options->limit +
                                      "' is no number of runs; write 2, or none for no limit");
        limit = number;
      }
      client.request("group", {{"name", options->name}, {"limit", limit}});
    }
    const nlohmann::json groups = client.request("status").at("groups");
    if (options->json) {
      std::printf("%s\n", dump(groups).c_str());
      return static_cast<int>(kOk);
    }
    std::vector<std::vector<std::string>> table{{"group", "running", "limit"}};
    for (const auto& [name, group] : groups.items())
      if (options->name.empty() || name == options->name)
        table.push_back({name, group.at("running").dump(), group.at("limit").is_null() ? "-" : group.at("limit").dump()});
    if (table.size() > 1) std::fputs(text_table(table, {1, 2}).c_str(), stdout);
    else if (options->name.empty()) std::printf("no groups; `assay group NAME 2` limits one, `--group NAME` puts runs in it\n");
    else std::printf("group %s: no limit, and nothing of it runs\n", options->name.c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
