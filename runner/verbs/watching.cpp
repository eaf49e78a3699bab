// follow and wait: the same but for what is shown meanwhile.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/progress.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

struct Options {
  std::vector<std::string> words;
  bool json = false;
  Color color = Color::automatic;
};

std::vector<std::int64_t> numbers_meant(const Paths& paths, const std::vector<std::string>& words) {
  const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
  std::vector<registry::RunRow> rows;
  if (words.empty()) {
    registry::Registry::RunFilter filter;
    filter.texts = false;
    filter.states = {registry::StateKind::queued, registry::StateKind::blocked, registry::StateKind::starting,
                     registry::StateKind::running};
    rows = registry.runs(filter);
  } else {
    rows = select_runs(registry, words);
  }
  std::vector<std::int64_t> numbers;
  for (const registry::RunRow& row : rows) numbers.push_back(row.number);
  return numbers;
}

int watch(const Options& options, ProgressView& view) {
  const Paths paths = user_paths();
  Client client = Client::connect(paths);
  const std::vector<std::int64_t> numbers = numbers_meant(paths, options.words);
  const std::vector<Watched> runs = follow(paths, client, numbers, view);
  return all_succeeded(runs) ? kOk : kRunsFailed;
}

constexpr const char* kWhat = "runs or series; else all that have not ended";

}  // namespace

std::function<int()> setup_follow(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, kWhat);
  add_json_flag(app, options->json);
  add_color_option(app, options->color);
  return [options] {
    const auto view = options->json ? json_view(stdout) : view_for(stdout, options->color);
    return watch(*options, *view);
  };
}

std::function<int()> setup_wait(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, kWhat);
  add_json_flag(app, options->json);
  return [options] {
    // With --json the runs are printed once they have ended, not before.
    struct AtEnd : ProgressView {
      void update(const std::vector<Watched>& runs, double now) override {
        std::vector<Watched> ended;
        for (const Watched& run : runs)
          if (registry::is_final(run.row.state.kind)) ended.push_back(run);
        view->update(ended, now);
      }
      std::unique_ptr<ProgressView> view = json_view(stdout);
    };
    if (!options->json) return watch(*options, *silent_view());
    AtEnd view;
    return watch(*options, view);
  };
}

}  // namespace assay::runner
