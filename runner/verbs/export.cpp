#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/exporting.h"
#include "runner/protocol.h"
#include "runner/run_folder.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"
#include "runner/web/serve.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct ExportOptions {
  std::vector<std::string> words;
  std::string out, table = "metrics";
  MlflowTarget mlflow;
  bool json = false;
};

std::vector<report::ExportedRun> chosen(const ExportOptions& options, bool outcomes) {
  const Paths paths = user_paths();
  Client::connect(paths);  // so that what has ended meanwhile is in the registry
  const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
  return exported_runs(registry, select_runs(registry, options.words), outcomes);
}

int write(const ExportOptions& options, const std::string& text) {
  if (options.out.empty() || options.out == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return kOk;
  }
  support::write_file_atomically(options.out, text);
  if (options.json) std::printf("%s\n", dump({{"file", options.out}, {"bytes", text.size()}}).c_str());
  return kOk;
}

int to_tensorboard(const ExportOptions& options) {
  json documents = json::array();
  for (const report::ExportedRun& run : chosen(options, false)) {
    const fs::path folder = fs::path(options.out) / run.series / run_folder_name(run.number, run.id, run.seed);
    make_folder(folder);
    // TensorBoard takes any name with "tfevents" in it. The same run always gets the same one, so that a later export
    // takes the place of the former.
    const fs::path file = folder / ("events.out.tfevents." + std::to_string(static_cast<long long>(run.created)) + ".assay");
    support::write_file_atomically(file, report::export_tensorboard(run));
    documents.push_back({{"number", run.number}, {"file", file.string()}});
    if (!options.json) std::printf("%lld %s\n", static_cast<long long>(run.number), file.c_str());
  }
  if (options.json) std::printf("%s\n", dump(documents).c_str());
  return kOk;
}

int to_mlflow(const ExportOptions& options) {
  web::speak_http();
  MlflowTarget target = options.mlflow;
  if (target.address.empty())
    if (const char* address = std::getenv("MLFLOW_TRACKING_URI")) target.address = address;
  if (target.address.empty())
    throw UserError(kUsage, "mlflow: no server is named; give --to http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI");
  json documents = json::array();
  for (const MlflowRun& run : export_to_mlflow(target, chosen(options, false))) {
    documents.push_back({{"run", run.run}, {"mlflow", run.id}, {"again", run.again}});
    if (!options.json) std::printf("%s: %s%s\n", run.run.c_str(), run.id.c_str(), run.again ? " (was there, brought up to date)" : "");
  }
  if (options.json) std::printf("%s\n", dump(documents).c_str());
  return kOk;
}

}  // namespace

std::function<int()> setup_export(CLI::App& app) {
  const auto options = std::make_shared<ExportOptions>();
  struct Form {
    CLI::App* app;
    std::function<int()> action;
  };
  const auto forms = std::make_shared<std::vector<Form>>();
  const auto form = [&](const char* name, const char* summary, std::function<int()> action) {
    CLI::App* sub = app.add_subcommand(name, summary);
    sub->add_option("WHAT", options->words, "runs or series, as `compare` takes them")->required();
    add_json_flag(*sub, options->json);
    forms->push_back({sub, std::move(action)});
    return sub;
  };
  form("tensorboard", "event files, one folder a run", [options] { return to_tensorboard(*options); })
      ->add_option("--out", options->out, "the folder that `tensorboard --logdir` gets")->required();
  CLI::App* mlflow = form("mlflow", "to an MLflow server, over its REST interface", [options] { return to_mlflow(*options); });
  mlflow->add_option("--to", options->mlflow.address, "its address; $MLFLOW_TRACKING_URI if not given");
  mlflow->add_option("--experiment", options->mlflow.experiment, "its experiment; the run's series if not given");
  const auto to_file = [&](CLI::App* sub) { sub->add_option("--out", options->out, "a file; stdout if not given"); };
  CLI::App* csv = form("csv", "a table, one line a value", [options] {
    const auto runs = chosen(*options, options->table == "outcomes");
    return write(*options, options->table == "metrics"       ? report::export_metrics_csv(runs)
                           : options->table == "runs"        ? report::export_runs_csv(runs)
                           : options->table == "evaluations" ? report::export_evaluations_csv(runs)
                                                             : report::export_outcomes_csv(runs));
  });
  to_file(csv);
  csv->add_option("--table", options->table, "metrics (if not given), runs, evaluations or outcomes")
      ->check(CLI::IsMember({"metrics", "runs", "evaluations", "outcomes"}));
  to_file(form("json", "everything, an array of runs", [options] { return write(*options, report::export_json(chosen(*options, true))); }));
  to_file(form("jsonl", "everything, a run a line", [options] { return write(*options, report::export_jsonl(chosen(*options, true))); }));
  app.require_subcommand(1);
  return [forms] {
    for (const Form& each : *forms)
      if (each.app->parsed()) return each.action();
    return static_cast<int>(kUsage);
  };
}

}  // namespace assay::runner
