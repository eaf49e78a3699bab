#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/comparison.h"
#include "runner/errors.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_compare(CLI::App& app) {
  struct Options {
    std::vector<std::string> words;
    std::string baseline;
    std::vector<std::int64_t> steps, seeds;
    bool md = false, csv = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->words, "a series (the latest run of each id and seed), or runs")->required();
  app.add_option("--baseline", options->baseline, "compare every run with this run id, not with its own baseline");
  app.add_option("--steps", options->steps, "the two steps compared, e.g. 0,20; else 0 and the last one planned")
      ->delimiter(',')
      ->take_all()
      ->expected(1);
  app.add_option("--seed", options->seeds, "only these seeds: 1,2")->delimiter(',')->take_all()->expected(1);
  auto* md = app.add_flag("--md", options->md, "Markdown (the default)");
  auto* csv = app.add_flag("--csv", options->csv, "CSV")->excludes(md);
  app.add_flag("--json", options->json, "JSON")->excludes(md)->excludes(csv);
  return [options] {
    if (!options->steps.empty() && options->steps.size() != 2)
      throw UserError(kUsage, "--steps: two steps are compared; write for example --steps 0,20");
    const Paths paths = user_paths();
    Client::connect(paths);  // so that what has ended meanwhile is in the registry
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    std::vector<registry::RunRow> rows = select_runs(registry, options->words);
    if (!options->seeds.empty())
      std::erase_if(rows, [&](const registry::RunRow& row) {
        return std::find(options->seeds.begin(), options->seeds.end(), row.seed) == options->seeds.end();
      });
    if (rows.empty()) throw UserError(kNoSuchRun, "compare: none of these runs has such a seed; leave --seed away");
    CompareChoice choice;
    choice.baseline = options->baseline;
    if (!choice.baseline.empty()) choice.baseline = select_one(registry, choice.baseline).run;
    if (!options->steps.empty()) {
      choice.first = options->steps.at(0);
      choice.last = options->steps.at(1);
    }
    const auto table = results(registry, rows, choice);
    const auto how = compare_options(registry, rows, choice);
    std::fputs((options->json  ? report::to_json(table, how)
                : options->csv ? report::to_csv(table, how)
                               : report::to_markdown(table, how))
                   .c_str(),
               stdout);
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
