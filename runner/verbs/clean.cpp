#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/attempts.h"
#include "runner/care.h"
#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_clean(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    bool checkpoints = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "runs or series; else all that have ended");
  app.add_flag("--checkpoints", options->checkpoints, "delete their checkpoints too (they cannot be resumed then)");
  add_json_flag(app, options->json);
  app.footer("Nothing of a run's record goes: `assay status --all`, compare and report show it as before. Checkpoints of a run that a "
             "record, a cause, a verification or a comparison of these rests on stay.");
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    std::vector<std::int64_t> numbers;
    std::map<std::int64_t, std::string> cited;
    {
      const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
      registry::Registry::RunFilter filter;
      filter.texts = false;
      filter.hidden = options->checkpoints;
      for (const registry::RunRow& row : options->words.empty() ? registry.runs(filter) : select_runs(registry, options->words))
        if (registry::is_final(row.state.kind)) numbers.push_back(row.number);
      if (options->checkpoints) cited = cited_runs(registry);
    }
    const auto freed = client.request("clean", {{"numbers", numbers}, {"checkpoints", options->checkpoints}})
                           .at("freed").get<std::uint64_t>();
    // The daemon decides; this says why. Runs that never had checkpoints are not worth a word.
    nlohmann::json kept = nlohmann::json::array();
    {
      const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
      for (const std::int64_t number : numbers)
        if (const auto found = cited.find(number); found != cited.end() && has_checkpoint(registry.run(number)->folder))
          kept.push_back({{"number", number}, {"why", found->second}});
    }
    if (options->json) {
      std::printf("%s\n", dump({{"numbers", numbers}, {"freed_bytes", freed}, {"kept", kept}}).c_str());
    } else {
      std::printf("%zu runs are out of the short listing", numbers.size());
      if (options->checkpoints) std::printf("; %.1f MiB of checkpoints deleted", static_cast<double>(freed) / (1 << 20));
      std::printf("\n");
      for (const auto& run : kept)
        std::fprintf(stderr, "run %s: its checkpoints stay: %s\n", run.at("number").dump().c_str(), run.at("why").get<std::string>().c_str());
    }
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
