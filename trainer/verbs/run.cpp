#include <filesystem>
#include <memory>

#include "trainer/grpo/ranks.h"
#include "trainer/grpo/session.h"
#include "trainer/grpo/train.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {

namespace {

std::int64_t ranks_of(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) return 1;  // train() says what is wrong
  return read_inputs(folder).config.train.ranks;
}

}  // namespace

void add_run(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("run", "train as RUN_DIR/config.json says, and write the results into RUN_DIR");
  struct Options {
    std::filesystem::path folder;
    TrainOptions train;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("RUN_DIR", options->folder, "a run folder; one that holds no run yet, unless with --resume")->required();
  verb->add_flag("--resume", options->train.resume,
                 "go on from the newest checkpoint in RUN_DIR; begin, where no training step has been recorded yet");
  verb->add_flag("--profile", options->train.profile,
                 "print at the end where the time went, and leave RUN_DIR/trace.json for chrome://tracing");
  verb->add_flag("--json", options->train.json, "print the lines of metrics.jsonl instead of a line of text per step");
  verb->callback([options, &exit_code] {
    const std::int64_t ranks = started_as_rank() ? 1 : ranks_of(options->folder);
    exit_code = ranks > 1 ? launch_ranks(ranks) : train(options->folder, options->train);
  });
}

}  // namespace assay::train
