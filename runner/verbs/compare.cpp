#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/comparison.h"
#include "runner/errors.h"
#include "runner/grid.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

struct Options {
  std::vector<std::string> words, where;
  std::string baseline;
  std::vector<std::int64_t> steps, seeds;
  report::GridOptions grid;
  bool md = false, csv = false, json = false, html = false, problems = false;

  // The table as README shows it, or one that the user shapes.
  bool shaped() const {
    return html || !grid.metric.empty() || grid.stepwise || grid.only_changed || !grid.sort_by.empty() || !grid.group_by.empty() ||
           (!steps.empty() && steps.size() != 2);
  }
};

std::string written(const report::Document& document, const Options& options) {
  if (options.json) return report::table_json(document);
  if (options.csv) return report::table_csv(document);
  if (options.html) return report::to_html(document, {});
  return report::to_markdown(document);
}

void declare(CLI::App& app, Options& options) {
  app.add_option("WHAT", options.words, "series (the latest run of each id and seed), or runs; several series are compared with each other")
      ->required();
  app.add_option("--baseline", options.baseline, "compare every run with this run id, not with its own baseline");
  app.add_option("--steps", options.steps, "the steps shown, e.g. 0,20; else 0 and the last one planned")
      ->delimiter(',')
      ->take_all()
      ->expected(1);
  app.add_option("--seeds,--seed", options.seeds, "only these seeds: 1,2")->delimiter(',')->take_all()->expected(1);
  app.add_option("--where", options.where, "only runs of which this holds: quant.format=nvfp4, state=succeeded, id=…, series=…; several times")
      ->take_all()
      ->expected(1);
  app.add_option("--metric", options.grid.metric, "this metric instead of the accuracy, e.g. actor/grad_norm");
  app.add_flag("--stepwise", options.grid.stepwise, "every step that was measured, a column each");
  app.add_flag("--only-changed", options.grid.only_changed, "show the config keys in which the runs differ, and no other");
  app.add_option("--sort-by", options.grid.sort_by, "id, series, seed, run, state, value, difference, or a config key; -value: largest first");
  app.add_option("--group-by", options.grid.group_by, "one row for each value of this config key, e.g. quant.format");
  app.add_flag("--problems", options.problems, "of two runs: the test problems gained and lost, both answers side by side");
  auto* md = app.add_flag("--md", options.md, "Markdown, which reads as plain text as well (the default)");
  auto* csv = app.add_flag("--csv", options.csv, "CSV")->excludes(md);
  auto* json = app.add_flag("--json", options.json, "JSON")->excludes(md)->excludes(csv);
  app.add_flag("--html", options.html, "one HTML page")->excludes(md)->excludes(csv)->excludes(json);
}

void check(const Options& options) {
  const report::GridOptions& grid = options.grid;
  if (options.problems && (!grid.metric.empty() || grid.stepwise || grid.only_changed || !grid.sort_by.empty() || !grid.group_by.empty()))
    throw UserError(kUsage, "--problems: it goes with --steps N, --md, --csv, --json and --html only; leave the others away");
  if (!options.grid.group_by.empty()) check_config_key("--group-by", options.grid.group_by);
  std::string key = options.grid.sort_by;
  if (key.starts_with('-')) key.erase(0, 1);
  const auto& words = report::sort_words();
  if (!options.grid.sort_by.empty() && std::find(words.begin(), words.end(), key) == words.end()) check_config_key("--sort-by", key);
}

}  // namespace

std::function<int()> setup_compare(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  declare(app, *options);
  return [options] {
    check(*options);
    const Paths paths = user_paths();
    Client::connect(paths);  // so that what has ended meanwhile is in the registry
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    std::vector<registry::RunRow> rows = select_runs(registry, options->words);
    if (!options->seeds.empty())
      std::erase_if(rows, [&](const registry::RunRow& row) {
        return std::find(options->seeds.begin(), options->seeds.end(), row.seed) == options->seeds.end();
      });
    filter_runs(rows, options->where);
    if (rows.empty())
      throw UserError(kNoSuchRun, "compare: none of these runs is what --seeds and --where ask for; leave them away");
    std::string text;
    if (options->problems) {
      if (rows.size() != 2 || options->steps.size() > 1)
        throw UserError(kUsage, "--problems: two runs are compared at one step, and " + std::to_string(rows.size()) +
                                    " were named; write for example `assay compare 17 18 --problems --steps 20`");
      const Problems problems = problem_pairs(registry, rows[0], rows[1], options->steps.empty() ? -1 : options->steps[0]);
      text = written(report::problems_document(problems.first, problems.second, problems.step, problems.pairs), *options);
      std::fwrite(text.data(), 1, text.size(), stdout);
      return static_cast<int>(kOk);
    }
    CompareChoice choice;
    choice.baseline = options->baseline;
    if (!choice.baseline.empty()) choice.baseline = select_one(registry, choice.baseline).run;
    if (options->shaped()) {
      report::GridOptions grid = options->grid;
      grid.steps = options->steps;
      grid.baseline = choice.baseline;
      grid.success_accuracy = compare_options(registry, rows, choice).success_accuracy;
      text = written(report::grid(grid_runs(registry, rows, grid), grid), *options);
    } else {
      if (!options->steps.empty()) {
        choice.first = options->steps.at(0);
        choice.last = options->steps.at(1);
      }
      const auto table = results(registry, rows, choice);
      const auto how = compare_options(registry, rows, choice);
      text = options->json  ? report::to_json(table, how)
             : options->csv ? report::to_csv(table, how)
                            : report::to_markdown(table, how);
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
