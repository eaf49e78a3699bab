#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/evaluate.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/session.h"
#include "trainer/grpo/stop.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

int run_eval(const std::filesystem::path& path, bool json) {
  catch_stop_signals();
  Inputs inputs = read_inputs(path);
  const auto trained = inputs.folder / "trained";
  const bool full = inputs.config.train.parameters == "full" && std::filesystem::exists(trained / "model.safetensors");
  if (full) inputs.derived.model_path = trained.string();
  Session session = open_session(inputs);
  const auto adapter = inputs.folder / "adapter";
  const bool adapted = std::filesystem::exists(adapter);
  if (adapted) try {
      read_adapter(adapter, session.decoder->adapter());
    } catch (const std::runtime_error& error) {
      throw BadInput(error.what());
    }
  const Evaluation evaluation = evaluate(session);
  if (json) {
    nlohmann::json metrics = nlohmann::json::object();
    for (const auto& [key, value] : evaluation.metrics()) metrics[key] = json_number(value);
    std::cout << nlohmann::json{{"problems", evaluation.problems.size()},
                                {"correct", evaluation.correct()},
                                {"accuracy", evaluation.accuracy()},
                                {"format_right", evaluation.format_right},
                                {"arithmetic_right", evaluation.arithmetic_right},
                                {"quant", evaluation.quant},
                                {"trained_quant", evaluation.trained_quant},
                                {"adapter", adapted},
                                {"trained_model", full},
                                {"metrics", metrics}}
                     .dump()
              << std::endl;
  } else {
    std::cout << (full ? "trained model: " : adapted ? "trained adapter: " : "no adapter: ") << summary(evaluation) << std::endl;
  }
  return exit_finished;
}

}  // namespace

void add_eval(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "eval", "greedy answers to the test problems; with what was trained where CONFIG is a run folder that has it");
  struct Options {
    std::filesystem::path path;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("CONFIG", options->path, "a run folder, or a config.json")->required();
  verb->add_flag("--json", options->json, "one JSON object instead of a line of text");
  verb->callback([options, &exit_code] { exit_code = run_eval(options->path, options->json); });
}

}  // namespace assay::train
