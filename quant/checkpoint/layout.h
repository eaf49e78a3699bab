// How a packed model lies in safetensors files: compressed-tensors' layouts (checked with version 0.20.0), and one of our
// own for what those cannot hold.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "quant/formats.h"

namespace assay::quant {

// MODULE.weight [rows, cols] becomes
//   MODULE.weight_packed  U8 [rows, code bytes of a row]   Packed::codes
//   MODULE.weight_scale   F8_E4M3, or U8 for MXFP4         Packed::scales: [rows, blocks], or [blocks, cols] for axis 0
// and, where the mode has a tensor scale, one of
//   MODULE.weight_global_scale  F32 [1]            compressed_tensors: an element is code * (scale / global scale)
//   MODULE.weight_tensor_max    F32 [1] or [rows]  assay: Packed::maxima, from which the mode's formula goes on
// The layout of compressed-tensors takes whole blocks along the rows under one tensor scale, nothing else; NVFP4 always
// has the global scale there. It stores no maxima: they are in the metadata, so that a model written here dequantizes
// here to exactly the fake-quantized values. There, they are code * fl(scale / global scale): the same numbers in the
// modes `ct`, `torchao_one_level` and all of MXFP4, in the others up to a few units in the last place of fp32 apart. Then
// compressed-tensors rounds to bf16.
enum class Layout : std::uint8_t { compressed_tensors, assay };

namespace tensor_names {
inline constexpr const char* packed = ".weight_packed";
inline constexpr const char* scale = ".weight_scale";
inline constexpr const char* global_scale = ".weight_global_scale";
inline constexpr const char* tensor_max = ".weight_tensor_max";
}  // namespace tensor_names

// Why compressed-tensors' layout cannot hold such a matrix; empty when it can.
std::string objection_to_compressed_tensors(const Spec& spec, int axis, std::int64_t cols);

// The choices that tensors and config.json do not carry, as each safetensors file says them in its __metadata__.
struct Choices {
  Spec spec;
  int axis = 1;
  Layout layout = Layout::compressed_tensors;
  std::map<std::string, float> tensor_max;  // by module; compressed_tensors with a tensor scale only
  std::set<std::string> odd_cols;           // modules whose weight has an odd number of columns; assay only
};
inline constexpr const char* kMetadataKey = "assay.quantization";
// JSON whose length does not depend on the numbers in tensor_max, which are known only after the header is laid out.
std::string metadata_value(const Choices& choices);
// Throws std::runtime_error, what is wrong without the file's name.
Choices parse_metadata_value(const std::string& value);

// quantization_config of config.json. `ignore`: the modules that are linear layers, or may be, and stay as they are.
nlohmann::json quantization_config(const Choices& choices, const std::vector<std::string>& ignore);
// The format of a quantization_config; nullopt: it is none that is read here.
std::optional<Format> format_of(const nlohmann::json& quantization_config);

}  // namespace assay::quant
