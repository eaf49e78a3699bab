#include "experiments/spec/canonical.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>

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
  json root = json::object();  // nlohmann's object is a sorted map: the order of keys is not ours to keep
  for (const Field& field : fields()) {
    const std::size_t dot = field.key.find('.');
    json& at = root[std::string(field.key.substr(0, dot))][std::string(field.key.substr(dot + 1))];
    std::visit([&](const auto& value) { at = value; }, field.get(config));
  }
  return root.dump();
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
    if (!root.contains(section) || !root.at(section).contains(name)) refuse("'" + key + "' is missing");
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
  const bool mixes_tokens = q.injection_point != "weight" && q.tensor_scale == "tensor" && has_tensor_scale(mode);
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
