#include <filesystem>
#include <memory>

#include "trainer/grpo/train.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {

void add_run(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("run", "train as RUN_DIR/config.json says, and write the results into RUN_DIR");
  auto folder = std::make_shared<std::filesystem::path>();
  verb->add_option("RUN_DIR", *folder, "a run folder that holds no metrics yet")->required();
  verb->callback([folder, &exit_code] { exit_code = train(*folder); });
}

}  // namespace assay::train
