#include "runner/bundle.h"

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

using nlohmann::json;
using registry::Registry;

struct Options {
  std::vector<std::string> words;
  std::string file;
  bool checkpoints = false, check = false, json = false;
};

int create(const Options& options) {
  const Paths paths = user_paths();
  Client::connect(paths);  // so that what has ended meanwhile is in the registry
  const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
  const BundleMade made = create_bundle(paths, select_runs(registry, options.words), options.file, options.checkpoints);
  if (options.json) {
    std::printf("%s\n", dump({{"file", options.file}, {"runs", made.runs}, {"files", made.files}, {"bytes", made.bytes}, {"left_out", made.left_out}}).c_str());
  } else {
    for (const std::string& path : made.left_out) std::fprintf(stderr, "%s: left out, it is no plain file\n", path.c_str());
    std::printf("%s: %zu runs, %zu files, %ju bytes\n", options.file.c_str(), made.runs, made.files, static_cast<std::uintmax_t>(made.bytes));
  }
  return kOk;
}

int take(const Options& options) {
  const BundleTaken taken = import_bundle(user_paths(), options.file, options.check);
  if (options.json) {
    json added = json::array(), present = json::array();
    for (const auto& [there, here] : taken.added) added.push_back({{"there", there}, {"number", here}});
    for (const auto& [there, here] : taken.present) present.push_back({{"there", there}, {"number", here}});
    std::printf("%s\n", dump({{"files", taken.files}, {"added", added}, {"present", present}}).c_str());
    return kOk;
  }
  std::printf("%zu files, all with the right checksum\n", taken.files);
  for (const auto& [there, here] : taken.added) std::printf("run %lld is run %lld here\n", static_cast<long long>(there), static_cast<long long>(here));
  for (const auto& [there, here] : taken.present)
    std::printf("run %lld was here already, as run %lld\n", static_cast<long long>(there), static_cast<long long>(here));
  return kOk;
}

}  // namespace

std::function<int()> setup_bundle(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  auto* create_app = app.add_subcommand("create", "write runs and their series into one archive");
  create_app->add_option("WHAT", options->words, "runs or series")->required();
  create_app->add_option("--out", options->file, "the archive: NAME.tar.zst or NAME.tar.gz")->required();
  create_app->add_flag("--checkpoints", options->checkpoints, "checkpoints as well");
  add_json_flag(*create_app, options->json);
  auto* import_app = app.add_subcommand("import", "check an archive and add its runs");
  import_app->add_option("FILE", options->file, "an archive made by `assay bundle create`")->required();
  import_app->add_flag("--check", options->check, "only check it");
  add_json_flag(*import_app, options->json);
  app.require_subcommand(1);
  return [options, create_app] { return create_app->parsed() ? create(*options) : take(*options); };
}

}  // namespace assay::runner
