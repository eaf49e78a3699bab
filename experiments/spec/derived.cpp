#include "experiments/spec/derived.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "experiments/spec/modules.h"
#include "support/files.h"
#include "support/looks.h"

namespace assay::spec {

namespace fs = std::filesystem;

namespace {
constexpr std::int64_t most_layers = 4096;  // more is a damaged file, not a model

// Lines that are not blank, as the trainer counts problems; -1 where the file cannot be read.
std::int64_t problems_in(const std::string& path) {
  support::look_cannot_be_kept();   // a data set is too long to be compared each time
  std::ifstream in(path);
  if (!in) return -1;
  std::int64_t count = 0;
  for (std::string line; std::getline(in, line);) count += line.find_first_not_of(" \t\r") != std::string::npos;
  return count;
}

std::int64_t total_steps(const Config& config, const std::string& train_path) {
  if (config.train.epochs == 0) return config.train.steps;
  const std::int64_t problems = problems_in(train_path);
  const GrpoConfig& grpo = config.grpo;
  const std::int64_t draw = grpo.filter_groups && grpo.gen_batch_size > 0 ? grpo.gen_batch_size : grpo.train_batch_size;
  return problems < 0 ? -1 : config.train.epochs * (problems / draw);
}
}

ModelFacts read_model_facts(const fs::path& folder) {
  if (!support::is_folder_at(folder)) return {-1, "there is no folder " + folder.string()};
  const fs::path file = folder / "config.json";
  if (!support::is_file_at(file))
    return {-1, folder.string() + " is no Hugging Face model folder: it has no config.json"};
  try {
    const auto json = nlohmann::json::parse(support::read_file(file), nullptr, false);
    if (!json.is_object()) return {-1, file.string() + " is not JSON"};
    const auto layers = json.find("num_hidden_layers");
    if (layers == json.end() || !layers->is_number_integer() || *layers < 1 || *layers > most_layers)
      return {-1, file.string() + " has no sensible num_hidden_layers"};
    return {layers->get<std::int64_t>(), ""};
  } catch (const std::runtime_error& failure) {
    return {-1, failure.what()};
  }
}

Derived derive(const Config& config, const std::string& model_path, const std::string& train_path,
               const std::string& test_path, std::int64_t layers) {
  Derived derived;
  derived.model_path = model_path;
  derived.train_path = train_path;
  derived.test_path = test_path;
  derived.updates_per_step =
      (config.grpo.train_batch_size + config.grpo.mini_batch_size - 1) / config.grpo.mini_batch_size;
  derived.total_steps = total_steps(config, train_path);
  derived.layers = layers;
  if (layers < 0) return derived;
  std::set<std::string> projections;
  LoraConfig lora = config.lora;
  if (config.train.parameters == "full") lora.targets.clear();
  const auto modules = quantized_modules(config.quant, lora, layers);
  for (const QuantizedModule& module : modules) projections.insert(module.projection);
  derived.quantized_modules = static_cast<std::int64_t>(modules.size());
  derived.quantized_projections = static_cast<std::int64_t>(projections.size());
  // With full fine-tuning: every weight, counted where the model is loaded.
  derived.adapter_tensors = config.train.parameters == "full" ? -1 : 2 * layers * static_cast<std::int64_t>(config.lora.targets.size());
  return derived;
}

}  // namespace assay::spec
