// Everything a run works with, loaded and checked: config, tokenizer, model with adapters and quantizers, problems.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/grpo/data.h"
#include "trainer/grpo/noise.h"
#include "trainer/grpo/ranks.h"
#include "trainer/grpo/rewarder.h"
#include "trainer/model/accelerator.h"
#include "trainer/model/decoder.h"
#include "trainer/rollout/sampler.h"
#include "trainer/text/tokenizer.h"

namespace assay::train {

struct Inputs {                 // what a CONFIG argument means
  spec::Config config;
  spec::Derived derived;        // paths resolved; counts as the file beside the config had them
  std::filesystem::path folder; // the run folder, or the folder the config file lies in
  std::filesystem::path work_folder;  // where a scorer program runs: run.json's, otherwise `folder`
};

// `path` is a run folder (config.json inside) or a canonical config file. Paths come from derived.json beside it; without
// one they are taken relative to that folder. Throws BadInput.
Inputs read_inputs(const std::filesystem::path& path);

struct ProblemSet {
  std::filesystem::path file;
  std::vector<Problem> problems;
  std::vector<std::vector<std::int32_t>> prompts;  // tokens, one per problem
};

struct Session {
  spec::Config config;          // train.steps is what train.epochs comes to
  spec::Derived derived;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<Decoder> reference;  // with full fine-tuning and a KL penalty: the model as it was, quantized alike
  AttachReport report;          // empty without quantization
  ProblemSet train, test;
  std::optional<NormNoise> noise;     // as noise.* says; none: no noise
  std::vector<LayerScan> layer_scan;  // what RIN goes by; empty: there was no scan
  std::shared_ptr<const Rewarder> rewarder;
  std::shared_ptr<Ranks> ranks = std::make_shared<Ranks>();  // alone, unless train() says otherwise

  std::string completion(const std::vector<std::int32_t>& ids) const;  // text of a response, valid UTF-8
  // As rollout.* and eval.* say. Both throw Stopped between two tokens (stop.h).
  SamplerOptions sampling(std::uint64_t seed) const;
  SamplerOptions greedy() const;
  // Labels of the quantization that the training forward runs under, and that evaluations run under.
  std::string trained_quant() const;
  std::string evaluated_quant() const;
};

// Sets the thread count and deterministic algorithms of the process, then loads all. Throws BadInput for whatever the
// config or an input file is to blame for, a missing GPU included, and OutOfMemory. `quantizer`: see decoder.h. `stand_in`, for
// tests: everything is computed as on a GPU, by LibTorch's operations and with this accelerator, but on the CPU.
Session open_session(const Inputs& inputs, ActivationQuantizer quantizer = default_activation_quantizer(),
                     Accelerator* stand_in = nullptr);

// A session of random weights, N(0, 0.02), of the shape that FOLDER/config.json says: no tokenizer, no problems, one form
// of each weight kept (Decoder::set_lean), on the CPU whatever train.device. For looking at a config before its model is
// there.
Session open_random_session(const Inputs& inputs, const std::filesystem::path& folder,
                            ActivationQuantizer quantizer = default_activation_quantizer());

// Throws BadInput when the tokenizer of the folder has ids that the model has no row for.
void check_vocabulary(const std::filesystem::path& folder, const Tokenizer& tokenizer, const ModelShape& shape);
// Prompts that one generation batch draws.
std::int64_t prompts_per_draw(const spec::GrpoConfig& grpo);
// Training steps: train.steps, or with train.epochs the generation batches that so many passes over `problems` hold.
// Throws BadInput where that is none.
std::int64_t steps_of(const spec::Config& config, std::int64_t problems);

// noise-report.json: the scan, where there was one, and the layers' multipliers (none: 1 for each).
std::string noise_report_json(const Session& session);

// The attach report as quant-report.json holds it.
std::string quant_report_json(const AttachReport& report);

}  // namespace assay::train
