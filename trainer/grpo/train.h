// The training loop: one run folder in, an exit code out (docs/run-folder.md).
#pragma once

#include <filesystem>
#include <memory>

#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/ranks.h"
#include "trainer/model/accelerator.h"
#include "trainer/model/decoder.h"

namespace assay::train {

struct TrainOptions {
  bool resume = false;  // go on from the newest checkpoint; begin where no training step has been recorded yet
  bool profile = false; // print where the time went, and leave trace.json in the run folder
  bool json = false;  // standard output: the lines of metrics.jsonl instead of one line of text per step
  ActivationQuantizer quantizer = default_activation_quantizer();
  Accelerator* stand_in = nullptr;  // see open_session()
  std::shared_ptr<Ranks> ranks = nullptr;  // for tests: joined already; none: as train.ranks says
};

// Runs what run_folder/config.json says, prints one line per step to standard output. Returns exit_finished,
// exit_non_finite or exit_terminated, each with its event; to resume a finished run is exit_finished at once. Throws
// BadInput when the config or an input is refused, the folder cannot be written or another process writes it, it holds a
// run already (without `resume`) or one without a sound checkpoint (with it); anything else is an infrastructure fault.
// Installs handlers for SIGTERM and SIGINT.
ExitCode train(const std::filesystem::path& run_folder, const TrainOptions& options = {});

}  // namespace assay::train
