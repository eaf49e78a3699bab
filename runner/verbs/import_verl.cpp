#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"
#include "runner/verl_import.h"

namespace assay::runner {

std::function<int()> setup_import_verl(CLI::App& app) {
  struct Options {
    VerlImportOptions verl;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("LOG", options->verl.files, "console logs of verl")->required();
  app.add_option("--series", options->verl.series, "the series the runs are put under; verl if not given");
  app.add_option("--run", options->verl.run, "run id; made from the file's name if not given");
  app.add_option("--like", options->verl.like, "SERIES/RUN: the run of a series file whose configuration these logs are of");
  app.add_option("--problems", options->verl.problems, "test problems behind each accuracy")->check(CLI::Range(1, 100'000'000));
  add_json_flag(app, options->json);
  return [options] {
    const std::vector<VerlImported> imported = import_verl(user_paths(), options->verl);
    nlohmann::json runs = nlohmann::json::array();
    for (const VerlImported& run : imported) {
      std::string missing;
      for (const std::string& what : run.missing) missing += (missing.empty() ? "" : ", ") + what;
      if (options->json) {
        runs.push_back({{"file", run.file}, {"run", run.run}, {"number", run.number}, {"present", run.present},
                        {"lines", {run.first_line, run.last_line}}, {"steps", run.steps},
                        {"state", registry::name(run.state.kind)}, {"detail", run.state.detail}, {"missing", run.missing}});
      } else if (run.present) {
        std::printf("%s, lines %lld to %lld: is here already, as run %lld\n", run.file.c_str(), static_cast<long long>(run.first_line),
                    static_cast<long long>(run.last_line), static_cast<long long>(run.number));
      } else {
        std::printf("%s, lines %lld to %lld: run %lld %s, %lld steps, %s; the log does not hold: %s\n", run.file.c_str(),
                    static_cast<long long>(run.first_line), static_cast<long long>(run.last_line), static_cast<long long>(run.number),
                    run.run.c_str(), static_cast<long long>(run.steps), state_text(run.state).c_str(), missing.c_str());
      }
    }
    if (options->json) std::printf("%s\n", dump({{"runs", runs}}).c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
