// What the verbs that run a model by itself share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "trainer/model/decoder.h"

namespace assay::train {

// Loads the model of a Hugging Face folder and, where `adapter` is not empty, a PEFT adapter folder onto it
// (adapter_config.json: r, lora_alpha, target_modules). `threads` is LibTorch's; `dtype` as model.dtype. Throws BadInput.
Decoder open_model(const std::filesystem::path& folder, const std::filesystem::path& adapter, int threads,
                   const std::string& dtype);

// Refuses a key that the verb does not know, with a suggestion.
void refuse_unknown(const nlohmann::json& line, const std::vector<std::string>& known);
// Ids below `vocabulary`. Throws std::runtime_error.
std::vector<std::int32_t> ids_of(const nlohmann::json& list, std::int64_t vocabulary);

}  // namespace assay::train
