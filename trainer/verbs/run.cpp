#include <filesystem>
#include <memory>

#include "trainer/grpo/train.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {

void add_run(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("run", "train as RUN_DIR/config.json says, and write the results into RUN_DIR");
  struct Options {
    std::filesystem::path folder;
    TrainOptions train;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("RUN_DIR", options->folder, "a run folder that holds no metrics yet")->required();
  verb->add_flag("--json", options->train.json, "print the lines of metrics.jsonl instead of a line of text per step");
  verb->callback([options, &exit_code] { exit_code = train(options->folder, options->train); });
}

}  // namespace assay::train
