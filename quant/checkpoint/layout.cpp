#include "quant/checkpoint/layout.h"

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/strict_json.h"

namespace assay::quant {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;

const char* format_word(Format format) {
  return format == Format::nvfp4 ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
}

// Nine significant digits bring any float back, and "%.8e" writes each that is not negative in 14 characters.
std::string fixed_width(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.8e", static_cast<double>(value));
  return text;
}

}  // namespace

std::string objection_to_compressed_tensors(const Spec& spec, int axis, std::int64_t cols) {
  if (axis == 0) return "its blocks run along axis 1";
  if (spec.scope == Scope::row) return "it has one tensor scale, not one for each row";
  if (cols % spec.block() != 0)
    return "it has whole blocks only, and " + std::to_string(cols) + " is no multiple of " + std::to_string(spec.block());
  return "";
}

std::string metadata_value(const Choices& choices) {
  const Spec& spec = choices.spec;
  Json json{{"version", kVersion},
            {"layout", choices.layout == Layout::assay ? "assay" : "compressed-tensors"},
            {"format", name(spec.format)},
            {"mode", name(spec.mode)},
            {"axis", choices.axis},
            {"scope", name(spec.scope)},
            {"rounding", name(spec.rounding)},
            {"non_finite", name(spec.non_finite)}};
  if (spec.rounding == Rounding::stochastic) json["seed"] = spec.seed;
  if (spec.tiles) json["tiles"] = true;
  for (const auto& [module, maximum] : choices.tensor_max) json["tensor_max"][module] = fixed_width(maximum);
  if (!choices.odd_cols.empty()) json["odd_cols"] = choices.odd_cols;
  return json.dump();
}

Choices parse_metadata_value(const std::string& value) {
  const Json json = support::parse_strict_json(value);
  const auto text = [&](const char* key) {
    if (!json.is_object() || !json.contains(key) || !json[key].is_string())
      throw std::runtime_error(std::string("has metadata without a word for '") + key + "'");
    return json[key].get<std::string>();
  };
  const auto unknown = [&](const char* key) {
    throw std::runtime_error(std::string("was written with ") + key + " '" + text(key) + "', which this version does not have");
  };
  Choices choices;
  const std::string layout = text("layout");
  if (!json.contains("version") || json["version"] != kVersion)
    throw std::runtime_error("was written by another version of assay");
  if (layout != "assay" && layout != "compressed-tensors") unknown("layout");
  choices.layout = layout == "assay" ? Layout::assay : Layout::compressed_tensors;
  const auto format = parse_format(text("format"));
  if (!format) unknown("format");
  const auto mode = parse_mode(*format, text("mode"));
  if (!mode) unknown("mode");
  const auto scope = parse_scope(text("scope"));
  if (!scope || *scope == Scope::fixed) unknown("scope");
  const auto rounding = parse_rounding(text("rounding"));
  if (!rounding) unknown("rounding");
  const auto policy = parse_non_finite(text("non_finite"));
  if (!policy) unknown("non_finite");
  choices.spec = {*format, *mode, *scope, *policy, *rounding};
  if (*rounding == Rounding::stochastic) {
    if (!json.contains("seed") || !json["seed"].is_number_unsigned())
      throw std::runtime_error("has metadata without a seed for stochastic rounding");
    choices.spec.seed = json["seed"].get<std::uint64_t>();
  }
  if (json.contains("tiles")) {
    if (json["tiles"] != true) throw std::runtime_error("has metadata whose 'tiles' is not true");
    choices.spec.tiles = true;
  }
  if (!json.contains("axis") || (json["axis"] != 0 && json["axis"] != 1))
    throw std::runtime_error("has metadata whose 'axis' is not 0 or 1");
  choices.axis = json["axis"].get<int>();
  if (const auto wrong = objection(choices.spec, choices.axis); !wrong.empty())
    throw std::runtime_error("has metadata that contradicts itself: " + std::string(wrong));
  if (json.contains("tensor_max")) {
    if (!json["tensor_max"].is_object()) throw std::runtime_error("has metadata whose 'tensor_max' is no object");
    for (const auto& [module, number] : json["tensor_max"].items()) {
      const std::string digits = number.is_string() ? number.get<std::string>() : "";
      char* end = nullptr;
      const float maximum = std::strtof(digits.c_str(), &end);
      if (digits.empty() || *end != '\0' || !(maximum >= 0) || maximum > 3.4028235e38f)
        throw std::runtime_error("has metadata whose tensor_max of '" + module + "' is not a number");
      choices.tensor_max[module] = maximum;
    }
  }
  if (json.contains("odd_cols")) {
    if (!json["odd_cols"].is_array()) throw std::runtime_error("has metadata whose 'odd_cols' is no list");
    for (const Json& module : json["odd_cols"]) {
      if (!module.is_string()) throw std::runtime_error("has metadata whose 'odd_cols' is no list of modules");
      choices.odd_cols.insert(module.get<std::string>());
    }
  }
  return choices;
}

nlohmann::json quantization_config(const Choices& choices, const std::vector<std::string>& ignore) {
  const bool nvfp4 = choices.spec.format == Format::nvfp4;
  const Json weights{{"num_bits", 4},
                     {"type", "float"},
                     {"symmetric", true},
                     {"strategy", nvfp4 ? "tensor_group" : "group"},
                     {"group_size", choices.spec.block()},
                     {"dynamic", false},
                     {"scale_dtype", nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8"}};
  const Json group{{"targets", {"Linear"}},
                   {"weights", weights},
                   {"input_activations", nullptr},
                   {"output_activations", nullptr},
                   {"format", format_word(choices.spec.format)}};
  return {{"quant_method", choices.layout == Layout::assay ? "assay" : "compressed-tensors"},
          {"format", format_word(choices.spec.format)},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", group}}},
          {"ignore", ignore},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr}};
}

std::optional<Format> format_of(const nlohmann::json& config) {
  if (!config.is_object() || !config.contains("format")) return std::nullopt;
  for (Format format : {Format::nvfp4, Format::mxfp4})
    if (config["format"] == format_word(format)) return format;
  return std::nullopt;
}

}  // namespace assay::quant
