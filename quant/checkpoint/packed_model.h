// Reading packed models: written here, or by compressed-tensors.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quant/checkpoint/layout.h"
#include "quant/packed.h"
#include "support/model_folder.h"

namespace assay::quant {

struct PackedWeight {
  Packed packed;
  // weight_global_scale; 1 for MXFP4. nullopt: the layout `assay`, which has none.
  std::optional<float> global_scale;
  // Written here, so packed.spec and packed.maxima say how. Otherwise only packed.spec.format is known.
  bool mode_known = false;
};

class PackedModel {
 public:
  // A model folder or a single safetensors file. Costs the headers only. Throws std::runtime_error "FILE: WHAT; WHAT TO DO":
  // it is not packed, packed otherwise, or a module's tensors do not fit together.
  static PackedModel open(const std::filesystem::path& path);

  std::vector<std::string> modules() const;  // those that are packed, sorted
  PackedWeight load(const std::string& module) const;
  // Tensors that belong to no packed module, by name.
  const std::map<std::string, const support::TensorView*>& others() const { return others_; }

 private:
  struct Module {
    Format format;
    std::int64_t rows, cols;
    const support::TensorView *codes, *scales, *global_scale = nullptr, *tensor_max = nullptr;
    const support::SafetensorsFile* file;
    const Choices* choices = nullptr;  // nullptr: written elsewhere
  };
  void read_file(const std::filesystem::path& path, const support::SafetensorsFile& file, std::optional<Format> told);

  std::optional<support::ModelFolder> folder_;
  std::unique_ptr<support::SafetensorsFile> single_;  // or
  std::map<std::string, Choices> choices_;  // by file
  std::map<std::string, Module> modules_;
  std::map<std::string, const support::TensorView*> others_;
};

// The values that the writer meant: bit for bit the fake-quantized ones where the mode is known, else those of
// dequantize_as_checkpoint(). out: rows x cols.
void dequantize(const PackedWeight& weight, float* out);
// code * (scale / global scale): what compressed-tensors computes, before it rounds to bf16. weight.global_scale is there.
void dequantize_as_checkpoint(const PackedWeight& weight, float* out);

}  // namespace assay::quant
