#include "quant/checkpoint/packed_model.h"

#include <cassert>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"
#include "support/strict_json.h"

namespace assay::quant {
namespace {

using support::TensorView;

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what,
                       const std::string& advice = "; the file is damaged: copy or download it again") {
  throw std::runtime_error(file.string() + ": " + what + advice);
}

constexpr const char* kGive = "; give a model in compressed-tensors' nvfp4-pack-quantized or mxfp4-pack-quantized layout";

std::string text(const std::vector<std::int64_t>& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

template <class T>
std::vector<T> read_all(const support::SafetensorsFile& file, const TensorView& view) {
  std::vector<T> values(view.bytes / sizeof(T));
  file.read(view, 0, values.data(), view.bytes);
  return values;
}

}  // namespace

PackedModel PackedModel::open(const std::filesystem::path& path) {
  PackedModel model;
  if (!std::filesystem::is_directory(path)) {
    model.single_ = std::make_unique<support::SafetensorsFile>(support::SafetensorsFile::open(path));
    model.read_file(path, *model.single_, std::nullopt);
  } else {
    model.folder_ = support::ModelFolder::open(path);
    const auto config_path = path / "config.json";
    nlohmann::json config;
    try {
      config = support::parse_strict_json(support::read_file(config_path));
    } catch (const std::runtime_error& error) {
      fail(config_path, std::string("cannot be read: ") + error.what(), "");
    }
    if (!config.is_object() || !config.contains("quantization_config"))
      fail(config_path, "has no quantization_config", kGive);
    const auto format = format_of(config["quantization_config"]);
    if (!format) fail(config_path, "says that the model is quantized in another way", kGive);
    for (const auto& shard : model.folder_->shards()) model.read_file(path / shard.name, shard.file, format);
  }
  if (model.modules_.empty()) fail(path, "has no packed weights", kGive);
  return model;
}

void PackedModel::read_file(const std::filesystem::path& path, const support::SafetensorsFile& file,
                            std::optional<Format> told) {
  const Choices* choices = nullptr;
  if (const auto at = file.metadata().find(kMetadataKey); at != file.metadata().end()) {
    try {
      choices = &choices_.emplace(path.string(), parse_metadata_value(at->second)).first->second;
    } catch (const std::runtime_error& error) {
      fail(path, error.what(), "; write it again with this version, or take that metadata out");
    }
  }
  const auto& tensors = file.tensors();
  std::map<std::string, const TensorView*> rest;
  for (const auto& [name, view] : tensors) rest[name] = &view;
  const auto take = [&](const std::string& name) -> const TensorView* {
    const auto at = rest.find(name);
    if (at == rest.end()) return nullptr;
    const TensorView* view = at->second;
    rest.erase(at);
    return view;
  };

  for (const auto& [name, view] : tensors) {
    if (!name.ends_with(tensor_names::packed)) continue;
    const std::string module = name.substr(0, name.size() - std::string_view(tensor_names::packed).size());
    Module m{};
    m.codes = take(name);
    m.scales = take(module + tensor_names::scale);
    m.global_scale = take(module + tensor_names::global_scale);
    m.tensor_max = take(module + tensor_names::tensor_max);
    m.file = &file;
    m.choices = choices;
    if (!m.scales) fail(path, "has no '" + module + tensor_names::scale + "' beside '" + name + "'");
    if (tensors.contains(module + ".weight_zero_point"))
      fail(path, "has '" + module + ".weight_zero_point': asymmetric weights are not read", kGive);
    if (view.dtype != "U8" || view.shape.size() != 2)
      fail(path, "has '" + name + "' as " + view.dtype + " " + text(view.shape) + ", not U8 with two dimensions");
    if (m.scales->dtype != "F8_E4M3" && m.scales->dtype != "U8" && m.scales->dtype != "F8_E8M0")
      fail(path, "has '" + module + tensor_names::scale + "' as " + m.scales->dtype + ", not F8_E4M3, U8 or F8_E8M0");
    m.format = m.scales->dtype == "F8_E4M3" ? Format::nvfp4 : Format::mxfp4;
    if ((told && *told != m.format) || (choices && choices->spec.format != m.format))
      fail(path, "has scales of '" + module + "' as " + m.scales->dtype + ", which is not the format it says it has");

    const Spec spec = choices ? choices->spec : Spec{m.format, *parse_mode(m.format, "")};
    const int axis = choices ? choices->axis : 1;
    m.rows = view.shape[0];
    m.cols = view.shape[1] * 2;
    // Two codes a byte leave open whether the last column is odd.
    if (choices && choices->odd_cols.contains(module) && m.cols > 0) m.cols -= 1;
    const std::vector<std::int64_t> wanted =
        axis == 1 ? std::vector<std::int64_t>{m.rows, block_count(spec, m.cols)}
                  : std::vector<std::int64_t>{block_count(spec, m.rows), m.cols};
    if (m.scales->shape != wanted)
      fail(path, "has '" + module + tensor_names::scale + "' of shape " + text(m.scales->shape) + " where " + text(wanted) +
                     " belongs to '" + name + "'");

    const bool by_row = choices && choices->spec.scope == Scope::row;
    const auto check = [&](const TensorView* number, const char* suffix, std::int64_t count) {
      if (!number) fail(path, "has no '" + module + suffix + "' beside '" + name + "'");
      if (number->dtype != "F32" || number->shape != std::vector<std::int64_t>{count})
        fail(path, "has '" + module + suffix + "' as " + number->dtype + " " + text(number->shape) + ", not F32 [" +
                       std::to_string(count) + "]");
    };
    if (choices && choices->layout == Layout::assay) {
      if (has_tensor_scale(spec.mode)) check(m.tensor_max, tensor_names::tensor_max, by_row ? m.rows : 1);
    } else {
      if (m.format == Format::nvfp4) check(m.global_scale, tensor_names::global_scale, 1);
      if (choices && has_tensor_scale(spec.mode) && !choices->tensor_max.contains(module))
        fail(path, "has metadata without a tensor_max of '" + module + "'");
    }
    if (!modules_.emplace(module, m).second) fail(path, "has '" + name + "', which another file has too");
  }
  others_.merge(rest);
}

std::vector<std::string> PackedModel::modules() const {
  std::vector<std::string> names;
  for (const auto& [name, module] : modules_) names.push_back(name);
  return names;
}

PackedWeight PackedModel::load(const std::string& name) const {
  const Module& m = modules_.at(name);
  PackedWeight weight;
  Packed& packed = weight.packed;
  packed.spec = m.choices ? m.choices->spec : Spec{m.format, *parse_mode(m.format, "")};
  packed.axis = m.choices ? m.choices->axis : 1;
  packed.rows = m.rows;
  packed.cols = m.cols;
  packed.codes = read_all<std::uint8_t>(*m.file, *m.codes);
  packed.scales = read_all<std::uint8_t>(*m.file, *m.scales);
  weight.mode_known = m.choices != nullptr;
  if (m.global_scale) weight.global_scale = read_all<float>(*m.file, *m.global_scale).front();
  else if (m.format == Format::mxfp4 && !(m.choices && m.choices->layout == Layout::assay)) weight.global_scale = 1.0f;
  if (m.tensor_max) packed.maxima = read_all<float>(*m.file, *m.tensor_max);
  else if (m.choices && has_tensor_scale(packed.spec.mode)) packed.maxima.assign(1, m.choices->tensor_max.at(name));
  return weight;
}

void dequantize(const PackedWeight& weight, float* out) {
  if (weight.mode_known) dequantize(weight.packed, out);
  else dequantize_as_checkpoint(weight, out);
}

void dequantize_as_checkpoint(const PackedWeight& weight, float* out) {
  assert(weight.global_scale);
  const Packed& packed = weight.packed;
  dequantize_divided(packed.spec.format, *weight.global_scale, packed.codes.data(), packed.scales.data(), packed.rows,
                     packed.cols, packed.axis, out);
}

}  // namespace assay::quant
