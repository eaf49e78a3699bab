#include "runner/verbs/add.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/verbs/verbs.h"
#include "runner/view.h"

namespace assay::runner {
namespace {

void declare(CLI::App& app, AddOptions& options) {
  add_what_options(app, options);
  app.add_flag("--doctor", options.doctor, "do the preflight first, as `run` does");
  app.add_flag("--strict", options.strict, "with --doctor: refuse when it finds an error");
  add_json_flag(app, options.json);
}

}  // namespace

AddOptions read_add(int argc, char** argv) {
  AddOptions options;
  CLI::App app("", "assay");
  app.require_subcommand(1);
  declare(*app.add_subcommand("add", ""), options);
  app.parse(argc, argv);
  return options;
}

std::function<int()> setup_add(CLI::App& app) {
  const auto options = std::make_shared<AddOptions>();
  declare(app, *options);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    if (options->strict) options->doctor = true;
    std::vector<std::string> labels;
    const std::vector<std::int64_t> numbers = submit(paths, client, *options, &labels);
    std::fputs(added(options->json, numbers, labels).c_str(), stdout);
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner
