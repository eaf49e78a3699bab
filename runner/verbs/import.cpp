#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/importing.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_import(CLI::App& app) {
  struct Options {
    std::string file;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.require_subcommand(1);
  CLI::App* records = app.add_subcommand("records", "figures that somebody else reported, from a TOML file of records");
  records->add_option("FILE", options->file, "the file of records (docs/series.md)")->required();
  add_json_flag(*records, options->json);
  CLI::App* verl = app.add_subcommand("verl", "console logs of verl, each run in them as a run");
  const std::function<int()> import_verl = setup_import_verl(*verl);
  CLI::App* mlflow = app.add_subcommand("mlflow", "runs of an MLflow server, to compare with");
  const std::function<int()> import_mlflow = setup_import_mlflow(*mlflow);
  return [options, verl, import_verl, mlflow, import_mlflow] {
    if (verl->parsed()) return import_verl();
    if (mlflow->parsed()) return import_mlflow();
    const ImportResult result = import_records(user_paths(), options->file);
    if (options->json) {
      std::printf("%s\n", dump({{"added", result.added}, {"present", result.present}}).c_str());
      return static_cast<int>(kOk);
    }
    for (const std::int64_t number : result.added) std::printf("%lld\n", static_cast<long long>(number));
    std::fprintf(stderr, "%zu runs imported, %zu were there already\n", result.added.size(), result.present.size());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
