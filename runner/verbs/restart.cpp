#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_restart(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    bool fresh = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "runs that ended without success")->required();
  app.add_flag("--fresh", options->fresh, "from the beginning, not from the last checkpoint");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    const std::vector<std::int64_t> numbers = numbers_of(registry, options->words);
    client.request("restart", {{"numbers", numbers}, {"fresh", options->fresh}});
    if (options->json) std::printf("%s\n", dump({{"numbers", numbers}}).c_str());
    else
      for (const std::int64_t number : numbers)
        std::printf("%lld %s: is started again\n", static_cast<long long>(number), label(*registry.run(number)).c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
