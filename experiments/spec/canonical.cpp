#include "experiments/spec/canonical.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "experiments/spec/fields.h"
#include "support/files.h"
#include "support/suggest.h"

namespace assay::spec {

using nlohmann::json;

namespace {

std::optional<Value> to_value(const json& node) {
  if (node.is_boolean()) return node.get<bool>();
  if (node.is_number_unsigned() && node.get<std::uint64_t>() > INT64_MAX) return std::nullopt;
  if (node.is_number_integer()) return node.get<std::int64_t>();
  if (node.is_number_float()) return node.get<double>();
  if (node.is_string()) return node.get<std::string>();
  if (!node.is_array()) return std::nullopt;
  Strings strings;
  for (const json& element : node) {
    if (!element.is_string()) return std::nullopt;
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

[[noreturn]] void refuse(const std::string& message) { throw std::runtime_error("config: " + message); }

// Runs outlive the assay that froze them, and keys come with time. These the first frozen configurations had, and so have
// all: one that is missing is damage. Any other that is missing was not there yet, and means what was in force then: its
// default, unless before() says otherwise.
constexpr std::string_view kFirstKeys[] = {
    "data.test", "data.train", "eval.batch_size", "eval.limit", "eval.quant", "eval.test_freq", "grpo.advantage",
    "grpo.clip_ratio_c", "grpo.clip_ratio_high", "grpo.clip_ratio_low", "grpo.filter_groups", "grpo.gen_batch_size",
    "grpo.loss_agg", "grpo.max_num_gen_batches", "grpo.micro_batch_size", "grpo.mini_batch_size",
    "grpo.overlong_buffer", "grpo.overlong_factor", "grpo.train_batch_size", "lora.alpha", "lora.rank",
    "lora.targets", "model.dtype", "model.path", "optimizer.beta1", "optimizer.beta2", "optimizer.eps",
    "optimizer.grad_clip", "optimizer.lr", "optimizer.warmup_steps", "optimizer.weight_decay", "prompt.style",
    "prompt.system", "prompt.text", "quant.apply_during", "quant.blocking", "quant.exclude", "quant.format",
    "quant.hook", "quant.injection_point", "quant.mode", "quant.ste", "quant.targets", "quant.tensor_scale",
    "reward.scorer", "rollout.batch_size", "rollout.max_prompt_length", "rollout.max_response_length",
    "rollout.samples_per_prompt", "rollout.temperature", "rollout.top_k", "rollout.top_p", "schedule.stall_timeout",
    "schedule.time_limit", "train.device", "train.seed", "train.steps", "train.threads", "trainer.argv",
    "trainer.kind",
};

// Of a key whose default is not what was in force before there was the key.
std::optional<Value> before(std::string_view key) {
  if (key == "checkpoint.every") return std::int64_t{0};   // there were no checkpoints
  if (key == "checkpoint.keep_best") return false;
  return std::nullopt;
}

// Every key that stands in the file, as "section.name".
void check_keys(const json& root) {
  if (!root.is_object()) refuse("not an object");
  const Strings sections = section_names();
  for (const auto& [section, table] : root.items()) {
    if (std::find(sections.begin(), sections.end(), section) == sections.end())
      refuse("unknown key '" + section + "'" + support::did_you_mean(section, sections));
    if (!table.is_object()) refuse("'" + section + "' is not an object");
    for (const auto& [name, value] : table.items()) {
      const std::string key = section + "." + name;
      if (!find_field(key)) refuse("unknown key '" + key + "'" + support::did_you_mean(key, field_keys()));
    }
  }
}

template <typename T>
T derived_value(const json& root, const char* key) {
  if (!root.contains(key)) throw std::runtime_error(std::string("derived: '") + key + "' is missing");
  const json& node = root.at(key);
  const bool right = std::is_same_v<T, std::string> ? node.is_string() : node.is_number_integer();
  if (!right) throw std::runtime_error(std::string("derived: '") + key + "' is of a wrong type");
  return node.get<T>();
}

}  // namespace

std::string canonical_json(const Config& config) {
  // As an object of objects would be written whose keys are sorted, without the two hundred nodes of it.
  struct Place {
    std::string section, name;
    const Field* field;
  };
  static const std::vector<Place> order = [] {
    std::vector<Place> places;
    for (const Field& field : fields()) {
      const std::size_t dot = field.key.find('.');
      places.push_back({std::string(field.key.substr(0, dot)), std::string(field.key.substr(dot + 1)), &field});
    }
    std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
      return a.section != b.section ? a.section < b.section : a.name < b.name;
    });
    return places;
  }();
  std::string text = "{";
  const std::string* section = nullptr;
  for (const Place& place : order) {
    if (section != nullptr && *section == place.section) {
      text += ',';
    } else {
      text += section == nullptr ? "" : "},";
      text += '"' + place.section + "\":{";
      section = &place.section;
    }
    text += '"' + place.name + "\":";
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<T, bool>) text += value ? "true" : "false";
          else if constexpr (std::is_same_v<T, std::int64_t>) text += std::to_string(value);
          else text += json(value).dump();
        },
        place.field->get(config));
  }
  return text + (section == nullptr ? "}" : "}}");
}

std::string derived_json(const Derived& derived) {
  const json root = {
      {"model_path", derived.model_path},
      {"train_path", derived.train_path},
      {"test_path", derived.test_path},
      {"layers", derived.layers},
      {"quantized_modules", derived.quantized_modules},
      {"quantized_projections", derived.quantized_projections},
      {"adapter_tensors", derived.adapter_tensors},
      {"updates_per_step", derived.updates_per_step},
      {"total_steps", derived.total_steps},
  };
  return root.dump();
}

Config config_from_json(const json& root) {
  check_keys(root);
  Config config;
  for (const Field& field : fields()) {
    const std::string key(field.key);
    const std::size_t dot = key.find('.');
    const std::string section = key.substr(0, dot), name = key.substr(dot + 1);
    if (!root.contains(section) || !root.at(section).contains(name)) {
      if (std::find(std::begin(kFirstKeys), std::end(kFirstKeys), field.key) != std::end(kFirstKeys))
        refuse("'" + key + "' is missing");
      if (const auto value = before(field.key)) field.set(config, *value);
      continue;
    }
    const std::optional<Value> value = to_value(root.at(section).at(name));
    if (!value) refuse("'" + key + "': wanted " + field.expected() + ", got " + root.at(section).at(name).dump());
    const auto taken = accept(field, *value);
    if (const auto* refusal = std::get_if<Refusal>(&taken)) refuse("'" + key + "': " + refusal->message);
    field.set(config, std::get<Value>(taken));
  }
  return config;
}

Derived derived_from_json(const json& root) {
  if (!root.is_object()) throw std::runtime_error("derived: not an object");
  Derived derived;
  derived.model_path = derived_value<std::string>(root, "model_path");
  derived.train_path = derived_value<std::string>(root, "train_path");
  derived.test_path = derived_value<std::string>(root, "test_path");
  derived.layers = derived_value<std::int64_t>(root, "layers");
  derived.quantized_modules = derived_value<std::int64_t>(root, "quantized_modules");
  derived.quantized_projections = derived_value<std::int64_t>(root, "quantized_projections");
  derived.adapter_tensors = derived_value<std::int64_t>(root, "adapter_tensors");
  derived.updates_per_step = derived_value<std::int64_t>(root, "updates_per_step");
  derived.total_steps = root.value("total_steps", std::int64_t{-1});  // not there before runs could be counted in epochs
  return derived;
}

std::string config_hash(const Config& config) { return support::sha256_hex(canonical_json(config)); }

std::vector<std::string> modes_of(const std::string& format) {
  if (format == "nvfp4") return {"te", "te46", "te46_mae", "torchao", "torchao_one_level", "ct", "ct_bf16"};
  if (format == "mxfp4") return {"floor", "even", "rceil", "ceil"};
  return {};
}

bool has_tensor_scale(const std::string& mode) {
  const auto modes = modes_of("nvfp4");
  return mode != "torchao_one_level" && std::find(modes.begin(), modes.end(), mode) != modes.end();
}

bool batch_invariant(const Config& config) {
  const QuantConfig& q = config.quant;
  if (config.noise.kind != "none" && config.noise.apply_during != "both") return false;
  if (config.train.parameters == "lora" && config.lora.dropout > 0) return false;
  if (q.format == "none") return true;
  const std::string mode = q.mode.empty() ? default_mode(q.format) : q.mode;
  const bool mixes_tokens = q.injection_point != "weight" && ((q.tensor_scale == "tensor" && has_tensor_scale(mode)) ||
                                                             q.rounding == "stochastic");
  return q.apply_during == "both" && !mixes_tokens;
}

std::string default_mode(const std::string& format) {
  const auto modes = modes_of(format);
  return modes.empty() ? "" : modes.front();
}

// Words that have no effect on what is computed are left out, so that two labels are equal when the arithmetic is.
std::string quant_label(const QuantConfig& quant) {
  if (quant.format == "none") return "none";
  const bool weights = quant.injection_point != "activation";
  const bool activations = quant.injection_point != "weight";
  const std::string mode = quant.mode.empty() ? default_mode(quant.format) : quant.mode;
  std::string label = quant.format + "/" + mode + (weights ? " W4" : " W16") + (activations ? "A4" : "A16");
  if (activations) label += " " + quant.hook;
  if (weights) label += " " + quant.blocking;
  if (activations) label += quant.ste ? " ste" : " no-ste";
  if (activations && has_tensor_scale(mode) && quant.tensor_scale == "row") label += " row-scale";
  if (quant.rounding != "nearest") label += " " + quant.rounding;
  if (quant.hadamard) label += " hadamard";
  if (activations && quant.non_finite == "hw_saturate") label += " hw-saturate";
  if (quant.apply_during != "both") label += " " + quant.apply_during + "-only";
  if (quant.targets != QuantConfig{}.targets) {
    label += " on";
    for (const std::string& target : quant.targets) label += " " + target;
  }
  if (quant.skip_first_layers > 0) label += " skip-first-" + std::to_string(quant.skip_first_layers);
  if (quant.skip_last_layers > 0) label += " skip-last-" + std::to_string(quant.skip_last_layers);
  if (!quant.exclude.empty()) {
    label += " except";
    for (const std::string& entry : quant.exclude) label += " " + entry;
  }
  return label;
}

}  // namespace assay::spec
