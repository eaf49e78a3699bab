// Greedy evaluation on the fixed test problems, and its files in the run folder (docs/run-folder.md).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/session.h"

namespace assay::train {

struct Answered {              // one test problem
  Score score;
  std::string completion;
  std::int64_t tokens = 0;
  bool truncated = false;
};

struct Evaluation {
  std::vector<Answered> problems;            // in file order
  std::array<std::int64_t, 4> outcomes{};    // by Outcome
  std::int64_t format_right = 0, arithmetic_right = 0;
  std::string quant, trained_quant;          // measured under, trained under
  double seconds = 0;
  std::int64_t correct() const { return outcomes[0]; }
  double accuracy() const;                   // share, 0..1
  Metrics metrics() const;                   // val-core/…, val-aux/…, timing_s/testing
};

// Greedy answers to all test problems of the session, under the quantization eval.quant names: `as_training` is what the
// training forward runs under, whatever the sampler runs under. Throws Stopped when a stop signal came.
Evaluation evaluate(Session& session);

// eval/step-NNNNNN.jsonl, then atomically eval/step-NNNNNN.json.
void write_evaluation(const std::filesystem::path& run_folder, std::int64_t step, const Evaluation& evaluation,
                      const std::string& data_sha256);

// One line for people: "553 of 1024 right (54.0 %), … under nvfp4/te W4A4 pre row ste".
std::string summary(const Evaluation& evaluation);

}  // namespace assay::train
