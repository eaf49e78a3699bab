#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/progress.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_kill(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    double grace = 10;
    bool no_wait = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "runs or series")->required();
  app.add_option("--grace", options->grace, "seconds between SIGTERM and SIGKILL; 10 if not given")
      ->check(CLI::Range(0.0, 86400.0));
  app.add_flag("--no-wait", options->no_wait, "return at once, not when they have ended");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    std::vector<std::int64_t> numbers;
    std::vector<registry::RunRow> rows;
    {
      const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
      rows = select_runs(registry, options->words);
    }
    for (const registry::RunRow& row : rows)
      if (!registry::is_final(row.state.kind)) numbers.push_back(row.number);
    if (numbers.empty()) {
      if (options->json) {
        std::printf("[]\n");
        return static_cast<int>(kOk);
      }
      for (const registry::RunRow& row : rows)
        std::printf("%lld %s: has already ended (%s)\n", static_cast<long long>(row.number), label(row).c_str(),
                    registry::name(row.state.kind));
      return static_cast<int>(kOk);
    }
    client.request("kill", {{"numbers", numbers}, {"by", user_name()}, {"grace", options->grace}});
    std::vector<Watched> runs;
    if (options->no_wait) {
      const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
      for (const std::int64_t number : numbers)
        runs.push_back({registry.run(number).value(), registry.progress(number), {}});
    } else {
      runs = follow(paths, client, numbers, *silent_view());
    }
    nlohmann::json documents = nlohmann::json::array();
    for (const Watched& run : runs) {
      if (options->json) documents.push_back(run_json(run.row, run.progress, std::nullopt));
      else
        std::printf("%lld %s: %s\n", static_cast<long long>(run.row.number), label(run.row).c_str(),
                    registry::is_final(run.row.state.kind) ? state_text(run.row.state).c_str() : "is being ended");
    }
    if (options->json) std::printf("%s\n", dump(documents).c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
