// pause and resume.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

std::vector<registry::RunRow> rows_of(const Paths& paths, const std::vector<std::string>& words) {
  return select_runs(registry::Registry::open(paths.registry(), registry::Registry::Access::read_only), words);
}

int print(const Paths& paths, const std::vector<std::string>& words, bool json) {
  nlohmann::json documents = nlohmann::json::array();
  const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
  for (const registry::RunRow& row : select_runs(registry, words)) {
    if (json) documents.push_back(run_json(row, registry.progress(row.number), std::nullopt));
    else
      std::printf("%lld %s: %s%s\n", static_cast<long long>(row.number), label(row).c_str(),
                  row.held ? "paused, " : "", registry::name(row.state.kind));
  }
  if (json) std::printf("%s\n", dump(documents).c_str());
  return kOk;
}

std::vector<std::int64_t> open_numbers(const std::vector<registry::RunRow>& rows) {
  std::vector<std::int64_t> numbers;
  for (const registry::RunRow& row : rows)
    if (!registry::is_final(row.state.kind)) numbers.push_back(row.number);
  return numbers;
}

}  // namespace

std::function<int()> setup_pause(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    bool checkpoint = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "runs or series")->required();
  app.add_flag("--checkpoint", options->checkpoint,
               "end running ones with a checkpoint, so that others may have their cores, memory and GPUs meanwhile");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    client.request("pause", {{"numbers", open_numbers(rows_of(paths, options->words))},
                             {"checkpoint", options->checkpoint},
                             {"by", user_name()}});
    return print(paths, options->words, options->json);
  };
}

std::function<int()> setup_resume(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "runs or series")->required();
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    client.request("resume", {{"numbers", open_numbers(rows_of(paths, options->words))}});
    return print(paths, options->words, options->json);
  };
}

}  // namespace assay::runner
