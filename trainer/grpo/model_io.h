// A whole model as a Hugging Face folder: what full fine-tuning leaves.
#pragma once

#include <filesystem>
#include <vector>

#include "trainer/model/decoder.h"

namespace assay::train {

// FOLDER/model.safetensors (F32, one file) with `weights`, under Hugging Face names, beside the config and tokenizer files
// of `source`, the folder that the model was loaded from; config.json says float32. The weights are written last.
// Throws std::runtime_error for what cannot be read or written.
void write_model(const std::filesystem::path& folder, const std::vector<NamedTensor>& weights,
                 const std::filesystem::path& source);

}  // namespace assay::train
