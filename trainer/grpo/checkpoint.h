// Where a run stands between two steps, kept on disk: RUN/checkpoints/step-NNNNNN (docs/run-folder.md).
//
// Random numbers have no state to keep: each is a function of the seed, the step and its purpose (seeds.h), noise
// included. Whatever else goes from one step into the next belongs into Position.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/grpo/coverage_watch.h"
#include "trainer/grpo/data.h"
#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/optimizer.h"

namespace assay::train {

struct Position {
  std::int64_t step = 0;        // training steps that are done and in the metrics log
  bool evaluated = false;       // so is the evaluation behind them, where one is due
  DataOrder::Place data;
  CoverageWatch::State coverage;
  bool said_no_gradient = false;
  std::int64_t best_step = -1;  // of the highest accuracy so far, the first of equals; -1: none
  double best_accuracy = -1;
};

// What the bits of a run depend on besides its config; a run that goes on elsewhere says so.
struct Machine {
  std::string kernels, quant_path;
};

struct Checkpoint {
  std::filesystem::path folder;
  Position position;
  Machine machine;
  MetricsLog::End log;
  OptimizerState state;
};

class CheckpointStore {
 public:
  // `adapter` names the tensors; they are neither kept nor changed.
  CheckpointStore(const std::filesystem::path& run_folder, const spec::Config& config, std::string model_path,
                  std::vector<NamedTensor> adapter);

  // Steps of the checkpoints that are there, ascending.
  std::vector<std::int64_t> steps() const;

  // Appears whole, or not at all, and survives a crash of the machine; one of the same step is replaced. Then removes
  // those that checkpoint.* does not keep. Costs three times the adapter's bytes and some fsyncs.
  // Throws std::runtime_error "PATH: REASON".
  void write(const Position& position, const OptimizerState& state, const Machine& machine, const MetricsLog::End& log);

  // The newest; nullopt: there is none. Throws BadInput when it is damaged (a checksum differs, a file is missing) and
  // names the newest one before it that is whole; or when it belongs to another config or version.
  std::optional<Checkpoint> newest() const;

 private:
  std::filesystem::path folder_of(std::int64_t step) const;
  Checkpoint read(std::int64_t step) const;
  void remove(const std::filesystem::path& folder) const;
  void prune(std::int64_t best_step) const;

  std::filesystem::path folder_;  // RUN/checkpoints
  spec::CheckpointConfig config_;
  spec::LoraConfig lora_;
  std::string config_sha256_, model_path_;
  std::vector<NamedTensor> adapter_;
};

}  // namespace assay::train
