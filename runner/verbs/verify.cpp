// diff and verify: two runs compared.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "registry/facts.h"
#include "runner/diff.h"
#include "runner/errors.h"
#include "runner/progress.h"
#include "runner/protocol.h"
#include "runner/records.h"
#include "runner/selection.h"
#include "runner/submit.h"
#include "runner/verbs/verbs.h"
#include "runner/verify.h"
#include "support/files.h"

namespace assay::runner {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;

std::function<int()> setup_diff(CLI::App& app) {
  struct Options {
    std::string a, b;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("A", options->a, "a run")->required();
  app.add_option("B", options->b, "another run")->required();
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client::connect(paths);  // so that what has ended meanwhile is in the registry
    const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
    const json document = difference(registry, select_one(registry, options->a), select_one(registry, options->b));
    if (options->json) std::printf("%s\n", dump(document).c_str());
    else std::fputs(difference_text(document).c_str(), stdout);
    return static_cast<int>(kOk);
  };
}

std::function<int()> setup_verify(CLI::App& app) {
  struct Options {
    std::string word, source;
    double tolerance = 0;
    bool this_build = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("ID", options->word, "a run that has ended")->required();
  app.add_option("--tolerance", options->tolerance, "relative difference of a metric that still passes; none if not given")
      ->check(CLI::Range(0.0, 1.0));
  app.add_flag("--this-build", options->this_build, "use the running assay, whatever commit the run was made by");
  app.add_option("--source", options->source, "assay's git repository; else $ASSAY_SOURCE, or the one this build came from");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    registry::RunRow original;
    {
      const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
      original = select_one(registry, options->word);
    }
    const std::string number = std::to_string(original.number);
    if (!registry::is_final(original.state.kind))
      throw UserError(kRefused, "verify: run " + number + " is " + registry::name(original.state.kind) + "; type `assay wait " + number + "` first");
    if (json::parse(original.run_json).contains("origin"))
      throw UserError(kRefused, "verify: run " + number + " was imported; there is nothing here to run again");
    const fs::path folder = original.folder;
    const json config = json::parse(original.config_json), derived = json::parse(original.derived_json);
    TrainerBuild build;
    if (config.at("trainer").at("kind") == "embedded") {
      const std::string diff = fs::exists(folder / "dirty.diff") ? support::read_file(folder / "dirty.diff") : "";
      build = trainer_build(paths, json::parse(support::read_file(folder / "code.json")), diff, options->source, options->this_build);
      ::setenv("ASSAY_TRAIN", build.trainer.c_str(), 1);
      for (const json& file : compare_inputs(support::read_file(folder / "inputs.json"),
                                             registry::input_facts(derived.value("model_path", ""), derived.value("train_path", ""),
                                                                   derived.value("test_path", ""), paths.input_cache())))
        std::fprintf(stderr, "warning: %s is not what run %s used\n", file.at("path").get<std::string>().c_str(), number.c_str());
    }
    SubmitOptions again;
    again.what.words = {number};
    again.labels = {"verifies=" + number};
    const std::vector<std::int64_t> numbers = submit(paths, client, again);
    const auto view = options->json ? silent_view() : view_for(stderr, Color::automatic);
    const std::vector<Watched> ended = follow(paths, client, numbers, *view);
    const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
    json result = verification(registry, original, ended.front().row, options->tolerance);
    result["commit"] = build.commit;
    result["remarks"] = build.remarks;
    registry::Record record = record_about(registry, number, false);
    record.kind = "verify";
    record.source = "verify";
    record.text = result.at("text").get<std::string>();
    for (const std::string& remark : build.remarks) record.text += "; " + remark;
    json data = result;
    data.erase("text");
    record.data_json = dump(data);
    send_records(paths, {record});
    if (options->json) std::printf("%s\n", dump(result).c_str());
    else std::printf("run %s %s: %s\n", number.c_str(), label(original).c_str(), record.text.c_str());
    return static_cast<int>(result.at("verdict") == "different" ? kRunsFailed : kOk);
  };
}

}  // namespace assay::runner
