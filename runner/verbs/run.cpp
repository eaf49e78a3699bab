#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/comparison.h"
#include "runner/errors.h"
#include "runner/progress.h"
#include "runner/submit.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_run(CLI::App& app) {
  struct Options : SubmitOptions {
    bool no_doctor = false, json = false, csv = false;
    Color color = Color::automatic;
  };
  const auto options = std::make_shared<Options>();
  add_what_options(app, *options);
  auto* skip = app.add_flag("--no-doctor", options->no_doctor, "skip the preflight of each distinct config");
  app.add_flag("--strict", options->strict, "refuse to start when the preflight finds an error")->excludes(skip);
  auto* json = app.add_flag("--json", options->json, "print the table as JSON");
  app.add_flag("--csv", options->csv, "print the table as CSV")->excludes(json);
  add_color_option(app, options->color);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    options->doctor = !options->no_doctor;
    const std::vector<std::int64_t> numbers = submit(paths, client, *options);
    // Progress on stderr, the table on stdout: `assay run e13 > table.md` holds the table alone.
    const std::vector<Watched> runs = follow(paths, client, numbers, *view_for(stderr, options->color));
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    std::vector<registry::RunRow> rows;
    for (const Watched& run : runs) rows.push_back(run.row);
    const auto table = results(registry, rows, {});
    const auto how = compare_options(registry, rows, {});
    std::fputs((options->json  ? report::to_json(table, how)
                : options->csv ? report::to_csv(table, how)
                               : report::to_markdown(table, how))
                   .c_str(),
               stdout);
    return static_cast<int>(all_succeeded(runs) ? kOk : kRunsFailed);
  };
}

}  // namespace assay::runner
