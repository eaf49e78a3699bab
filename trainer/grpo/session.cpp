#include "trainer/grpo/session.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "experiments/spec/canonical.h"
#include "support/files.h"
#include "trainer/cuda/loader.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/memory.h"
#include "trainer/grpo/seeds.h"
#include "trainer/grpo/stop.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;

// What the loaders throw is about the files they were given; so is what it means here.
template <class F>
auto refusing(const std::string& where, F&& load) -> decltype(load()) {
  try {
    return load();
  } catch (const BadInput&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    throw BadInput(where.empty() ? what : where + ": " + what);
  }
}

ProblemSet read_set(const std::string& file, const PromptBuilder& builder, std::int64_t limit, std::int64_t max_length) {
  ProblemSet set;
  set.file = file;
  set.problems = read_problems(set.file, limit);
  set.prompts = build_prompts(builder, set.problems, set.file, max_length);
  return set;
}

// A response of full length has to fit behind every prompt.
void check_positions(const ProblemSet& set, std::int64_t max_response, const ModelShape& shape) {
  for (std::size_t i = 0; i < set.prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(set.prompts[i].size());
    if (length + max_response > shape.max_positions)
      throw BadInput(set.file.string() + ":" + std::to_string(set.problems[i].line) + ": the prompt has " + std::to_string(length) +
                     " tokens, and with rollout.max_response_length = " + std::to_string(max_response) +
                     " that is more than the model's " + std::to_string(shape.max_positions) + " positions; lower it");
  }
}

std::string label(const spec::QuantConfig& quant, bool on) { return spec::quant_label(on ? quant : spec::QuantConfig{}); }

bool quantized_training(const spec::QuantConfig& quant) {
  return quant.format != "none" && quant.apply_during != "rollout";
}

// The scan sees the model as it is before training, whatever has been trained since: a resumed run gets the same.
void prepare_noise(Session& session) {
  const auto& config = session.config.noise;
  if (config.kind == "none") return;
  std::vector<double> multipliers;
  if (config.kind == "rin") {
    std::vector<double> errors(static_cast<std::size_t>(session.decoder->shape().layers), 0.0);
    if (config.rin != "zones") {
      const auto count = std::min<std::size_t>(static_cast<std::size_t>(config.scan_prompts), session.train.prompts.size());
      session.layer_scan = refusing("noise", [&] {
        return scan(*session.decoder, {session.train.prompts.begin(), session.train.prompts.begin() + static_cast<std::ptrdiff_t>(count)});
      });
      for (std::size_t i = 0; i < errors.size(); ++i) errors[i] = session.layer_scan[i].error.relative_error;
    }
    multipliers = refusing("", [&] { return rin_multipliers(config, errors); });
  }
  session.noise.emplace(config, static_cast<std::uint64_t>(session.config.train.seed), std::move(multipliers));
}

}  // namespace

std::int64_t prompts_per_draw(const spec::GrpoConfig& grpo) {
  return grpo.filter_groups && grpo.gen_batch_size > 0 ? grpo.gen_batch_size : grpo.train_batch_size;
}

std::int64_t steps_of(const spec::Config& config, std::int64_t problems) {
  if (config.train.epochs == 0) return config.train.steps;
  const std::int64_t draw = prompts_per_draw(config.grpo), steps = config.train.epochs * (problems / draw);
  if (steps == 0)
    throw BadInput("train.epochs: data.train has " + std::to_string(problems) + " problems, fewer than the " +
                   std::to_string(draw) + " that a step draws; make the batch smaller, or give train.steps");
  return steps;
}

Inputs read_inputs(const fs::path& path) {
  Inputs inputs;
  const bool folder = fs::is_directory(path);
  const fs::path file = folder ? path / "config.json" : path;
  if (!fs::exists(file))
    throw BadInput(path.string() + ": there is no such config; give a run folder or a config.json");
  inputs.folder = fs::absolute(file).parent_path();
  inputs.config = refusing(file.string(), [&] {
    return spec::config_from_json(nlohmann::json::parse(support::read_file(file)));
  });
  const fs::path derived = inputs.folder / "derived.json";
  if (fs::exists(derived))
    inputs.derived = refusing(derived.string(), [&] {
      return spec::derived_from_json(nlohmann::json::parse(support::read_file(derived)));
    });
  inputs.work_folder = inputs.folder;
  if (const fs::path run = inputs.folder / "run.json"; fs::exists(run)) {
    const auto json = nlohmann::json::parse(support::read_file(run), nullptr, false);
    if (json.is_object()) inputs.work_folder = json.value("work_folder", inputs.folder.string());
  }
  const auto resolve = [&](std::string& resolved, const std::string& given) {
    if (resolved.empty() && !given.empty()) resolved = (inputs.folder / given).lexically_normal().string();
  };
  resolve(inputs.derived.model_path, inputs.config.model.path);
  resolve(inputs.derived.train_path, inputs.config.data.train);
  resolve(inputs.derived.test_path, inputs.config.data.test);
  return inputs;
}

namespace {

// What of a run is the process's own. The GPU, or null where the run computes on the CPU.
Accelerator* set_up_process(const spec::Config& config) {
  if (config.trainer.kind != "embedded")
    throw BadInput("trainer.kind is \"" + config.trainer.kind + "\": assay-train runs \"embedded\" only");
  at::set_num_threads(static_cast<int>(config.train.threads));
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // a debugging aid that costs a pass over memory
  if (config.train.device != "cuda") return nullptr;
  const OpenedGpu& opened = open_gpu();
  if (!opened.accelerator) throw BadInput(opened.missing);
  return opened.accelerator;
}

// Weights are quantized on the CPU, where their error figures are, and go to the device when all is attached.
void place(Decoder& decoder, Accelerator* accelerator) {
  if (!accelerator) return;
  try {
    decoder.move_to(accelerator);
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    throw OutOfMemory("the model does not fit into the GPU's memory; try train.memory = \"lean\", or a smaller model");
  }
}

// Adapters (or all weights) and quantizers, and the reference of the KL penalty.
void attach(Session& session, const fs::path& model, ActivationQuantizer quantizer, bool lean, Accelerator* accelerator = nullptr) {
  const auto& config = session.config;
  const auto seed = static_cast<std::uint64_t>(config.train.seed);
  const bool full = config.train.parameters == "full";
  if (lean)
    session.decoder->set_lean(/*unquantized_too=*/config.quant.apply_during != "both" || config.eval.quant != "as_training");
  if (!full) refusing("lora.targets", [&] { session.decoder->attach_lora(config.lora, derive_seed(seed, 0, Purpose::lora)); });
  session.report.label = spec::quant_label(config.quant);
  const auto quantize = [&](Decoder& decoder) {
    return refusing("quant", [&] { return decoder.attach_quantizers(config.quant, quantizer, derive_seed(seed, 0, Purpose::quantizer)); });
  };
  if (config.quant.format != "none" || lean) session.report = quantize(*session.decoder);
  if (full && config.grpo.kl_coef > 0) {  // with adapters the reference is the decoder without them
    session.reference = std::make_unique<Decoder>(refusing("", [&] { return Decoder::load(model); }));
    if (accelerator) session.reference->set_aten();
    if (config.quant.format != "none") quantize(*session.reference);
    place(*session.reference, accelerator);
  }
  place(*session.decoder, accelerator);
  if (full) session.decoder->set_base_trainable(true);
}

}  // namespace

Session open_session(const Inputs& inputs, ActivationQuantizer quantizer, Accelerator* stand_in) {
  const auto& config = inputs.config;
  Accelerator* const own = set_up_process(config), * const accelerator = stand_in ? stand_in : own;
  Session session;
  session.config = config;
  session.derived = inputs.derived;
  session.rewarder = std::make_shared<Rewarder>(config.reward, inputs.work_folder);
  const fs::path model = inputs.derived.model_path;
  session.tokenizer = std::make_unique<Tokenizer>(refusing("", [&] { return Tokenizer::load(model); }));
  const auto builder = refusing("", [&] { return PromptBuilder(config.prompt, *session.tokenizer, model); });
  session.train = read_set(inputs.derived.train_path, builder, 0, config.rollout.max_prompt_length);
  session.test = read_set(inputs.derived.test_path, builder, config.eval.limit, config.rollout.max_prompt_length);
  if (config.train.epochs > 0)
    session.config.train.steps = steps_of(config, static_cast<std::int64_t>(session.train.problems.size()));

  session.decoder = std::make_unique<Decoder>(refusing("", [&] { return Decoder::load(model); }));
  if (config.model.dtype == "bf16") session.decoder->set_bf16();
  const ModelShape& shape = session.decoder->shape();
  if (accelerator) session.decoder->set_aten();
  check_vocabulary(model, *session.tokenizer, shape);
  for (const ProblemSet* set : {&session.train, &session.test}) check_positions(*set, config.rollout.max_response_length, shape);
  if (shape.eos_ids.empty())
    throw BadInput((model / "config.json").string() + ": there is no eos_token_id, so no response would ever end; add one");
  attach(session, model, std::move(quantizer), config.train.memory == "lean", accelerator);
  prepare_noise(session);
  return session;
}

Session open_random_session(const Inputs& inputs, const fs::path& folder, ActivationQuantizer quantizer) {
  Session session;
  session.config = inputs.config;
  session.derived = inputs.derived;
  session.config.train.device = "cpu";  // what is looked at is the same everywhere
  session.config.train.threads = std::min<std::int64_t>(session.config.train.threads, std::thread::hardware_concurrency());
  set_up_process(session.config);
  const ModelShape shape = refusing("", [&] { return ModelShape::read(folder); });
  session.decoder = std::make_unique<Decoder>(
      Decoder::fresh(shape, derive_seed(static_cast<std::uint64_t>(inputs.config.train.seed), 3, Purpose::doctor)));
  if (session.config.model.dtype == "bf16") session.decoder->set_bf16();
  session.config.grpo.kl_coef = 0;  // its reference would be read from weights that are not there
  attach(session, folder, std::move(quantizer), /*lean=*/session.config.train.parameters != "full");
  return session;
}

void check_vocabulary(const fs::path& folder, const Tokenizer& tokenizer, const ModelShape& shape) {
  if (tokenizer.vocabulary_size() > shape.vocabulary)
    throw BadInput(folder.string() + ": tokenizer.json has ids up to " + std::to_string(tokenizer.vocabulary_size() - 1) +
                   ", and config.json says vocab_size = " + std::to_string(shape.vocabulary) +
                   "; they are not of the same model: copy both from one place");
}

std::string Session::completion(const std::vector<std::int32_t>& ids) const {
  return tokenizer->decode(ids);
}

SamplerOptions Session::sampling(std::uint64_t seed) const {
  SamplerOptions options;
  options.samples_per_prompt = config.rollout.samples_per_prompt;
  options.temperature = config.rollout.temperature;
  options.top_k = config.rollout.top_k;
  options.top_p = config.rollout.top_p;
  options.min_p = config.rollout.min_p;
  options.max_new_tokens = config.rollout.max_response_length;
  options.batch_size = config.rollout.batch_size;
  options.eos_ids = decoder->shape().eos_ids;
  options.seed = seed;
  options.between_tokens = check_stop;
  return options;
}

SamplerOptions Session::greedy() const {
  SamplerOptions options;
  options.temperature = 0;
  options.max_new_tokens = config.rollout.max_response_length;
  options.batch_size = config.eval.batch_size;
  options.eos_ids = decoder->shape().eos_ids;
  options.between_tokens = check_stop;
  return options;
}

std::string Session::trained_quant() const { return label(config.quant, quantized_training(config.quant)); }

std::string Session::evaluated_quant() const {
  return label(config.quant, config.eval.quant == "as_training" && quantized_training(config.quant));
}

std::string noise_report_json(const Session& session) {
  nlohmann::json report = session.layer_scan.empty() ? nlohmann::json::object() : scan_json(session.layer_scan);
  report["multipliers"] = session.noise ? session.noise->multipliers() : std::vector<double>();
  return report.dump(2) + "\n";
}

std::string quant_report_json(const AttachReport& report) {
  nlohmann::json modules = nlohmann::json::array();
  for (const auto& module : report.modules)
    modules.push_back({{"name", module.name},
                       {"projection", module.projection},
                       {"weight", module.weight},
                       {"activation", module.activation},
                       {"hook", module.hook},
                       {"blocking", module.blocking},
                       {"weight_sqnr_db", module.weight_sqnr_db}});
  return nlohmann::json{{"modules", modules},
                        {"quantized_modules", report.modules.size()},
                        {"quantized_projections", report.projections},
                        {"twice", report.twice},
                        {"label", report.label}}
             .dump(2) +
         "\n";
}

}  // namespace assay::train
