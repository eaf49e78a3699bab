#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"
#include "runner/web/mlflow_import.h"

namespace assay::runner {

std::function<int()> setup_import_mlflow(CLI::App& app) {
  struct Options {
    MlflowSource source;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("EXPERIMENT", options->source.experiment, "an experiment of the server, by name")->required();
  app.add_option("--from", options->source.address, "the server's address; $MLFLOW_TRACKING_URI if not given");
  app.add_option("--series", options->source.series, "the series the runs are put under; the experiment's name if not given");
  app.add_option("--accuracy", options->source.accuracy, "the metric that is the test accuracy, a share from 0 to 1; with --problems or --test");
  app.add_option("--problems", options->source.problems, "test problems behind it")->check(CLI::Range(1, 100'000'000));
  app.add_option("--test", options->source.test, "the test file it was measured on, one problem a line");
  add_json_flag(app, options->json);
  return [options] {
    if (options->source.address.empty())
      if (const char* address = std::getenv("MLFLOW_TRACKING_URI")) options->source.address = address;
    if (options->source.address.empty())
      throw UserError(kUsage, "mlflow: no server is named; give --from http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI");
    nlohmann::json runs = nlohmann::json::array();
    for (const MlflowImported& run : import_mlflow(user_paths(), options->source)) {
      if (options->json) {
        runs.push_back({{"name", run.name}, {"mlflow", run.id}, {"run", run.run}, {"seed", run.seed}, {"number", run.number},
                        {"present", run.present}, {"left_out", run.left_out}, {"missing", run.missing}});
        continue;
      }
      std::string missing;
      for (const std::string& what : run.missing) missing += (missing.empty() ? "" : ", ") + what;
      const std::string name = run.name + " (" + run.id + ")";
      if (!run.left_out.empty()) std::printf("%s: left out: %s\n", name.c_str(), run.left_out.c_str());
      else if (run.present) std::printf("%s: is here already, as run %lld\n", name.c_str(), static_cast<long long>(run.number));
      else std::printf("%s: run %lld %s s%lld; not known: %s\n", name.c_str(), static_cast<long long>(run.number), run.run.c_str(),
                       static_cast<long long>(run.seed), missing.c_str());
    }
    if (options->json) std::printf("%s\n", dump({{"runs", runs}}).c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
