#include "trainer/grpo/doctor.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

struct Options {
  std::filesystem::path path, out;
  std::filesystem::path shape;
  bool json = false, random_weights = false;
  std::int64_t prompts = 16;
};

int run_doctor(const Options& options) {
  const Inputs inputs = read_inputs(options.path);
  const auto shape = options.shape.empty() ? std::filesystem::path(inputs.derived.model_path) : options.shape;
  if (options.random_weights && !std::filesystem::exists(shape / "config.json"))
    throw BadInput((shape / "config.json").string() + ": no such file, and random weights need its shape; give a folder that has one with --shape");
  Session session = options.random_weights ? open_random_session(inputs, shape) : open_session(inputs);
  const Measurements seen = options.random_weights ? measure_random(session) : measure(session, options.prompts);
  const auto findings = judge(seen);
  const std::string document = doctor_json(seen, findings).dump(2) + "\n";
  auto out = options.out;
  if (out.empty() && std::filesystem::is_directory(options.path)) out = options.path / "doctor.json";
  if (!out.empty()) try {
      support::write_file_atomically(out, document);
    } catch (const std::exception& error) {
      throw BadInput(std::string(error.what()) + ": the findings cannot be written there; give another --out");
    }
  std::cout << (options.json ? document : doctor_text(seen, findings)) << std::flush;
  const bool wrong =
      std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.severity == Severity::error; });
  return wrong ? exit_findings : exit_finished;
}

}  // namespace

void add_doctor(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "doctor", "what is quantized, which adapter tensors get a gradient, what will not work and why; measured on a few prompts");
  auto options = std::make_shared<Options>();
  verb->add_option("CONFIG", options->path, "a run folder (doctor.json is written there), or a config.json")->required();
  verb->add_option("--out", options->out, "write the findings as JSON into this file");
  verb->add_flag("--json", options->json, "print them as JSON");
  verb->add_option("--prompts", options->prompts, "groups to sample, at most train_batch_size")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  verb->add_flag("--random-weights", options->random_weights,
                 "without the model: random weights of its shape, random prompts, made-up rewards; one form of each weight in memory");
  verb->add_option("--shape", options->shape, "with --random-weights: the folder whose config.json says the shape, instead of model.path")
      ->needs("--random-weights");
  verb->callback([options, &exit_code] { exit_code = run_doctor(*options); });
}

}  // namespace assay::train
