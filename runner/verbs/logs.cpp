#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"
#include "support/files.h"

namespace assay::runner {

std::function<int()> setup_logs(CLI::App& app) {
  struct Options {
    std::string word;
    bool error = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("ID", options->word, "a run")->required();
  app.add_flag("--stderr", options->error, "what it wrote to stderr, not to stdout");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client::connect(paths);
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    const registry::RunRow row = select_one(registry, options->word);
    const auto file = std::filesystem::path(row.folder) / (options->error ? "stderr.log" : "stdout.log");
    if (!std::filesystem::exists(file))
      throw UserError(kNoSuchRun, file.string() + ": run " + std::to_string(row.number) + " is " +
                                      registry::name(row.state.kind) + " and has written nothing; type `assay status " +
                                      std::to_string(row.number) + "`");
    const std::string text = support::read_file(file);
    if (options->json)
      std::printf("%s\n", dump({{"number", row.number}, {"file", file.string()}, {"text", text}}).c_str());
    else
      std::fwrite(text.data(), 1, text.size(), stdout);
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
