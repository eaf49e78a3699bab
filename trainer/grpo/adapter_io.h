// The adapter as PEFT reads and writes it: adapter_model.safetensors and adapter_config.json in one folder.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/model/decoder.h"

namespace assay::train {

// Each file atomically, the config last. `base_model` is what adapter_config.json names as the base.
void write_adapter(const std::filesystem::path& folder, const std::vector<NamedTensor>& adapter,
                   const spec::LoraConfig& lora, const std::string& base_model);

// What of adapter_config.json shapes the mathematics: r, lora_alpha, target_modules. Throws std::runtime_error
// "FILE: WHAT" for a field that shapes it and is not supported.
spec::LoraConfig read_lora_config(const std::filesystem::path& folder);

// Puts the saved values into the decoder's adapter. Throws std::runtime_error "FILE: WHAT" when a tensor is missing, is
// of another shape or dtype, or there are tensors that the adapter does not have.
void read_adapter(const std::filesystem::path& folder, const std::vector<NamedTensor>& adapter);

}  // namespace assay::train
