// Writing of the base model as an ordinary Hugging Face folder.
#pragma once

#include <filesystem>
#include <string>

#include "trainer/model/decoder.h"
#include "trainer/tasks/config.h"

namespace assay::train::tasks {

// Writes config.json, generation_config.json, model.safetensors, README.md (`card`) and copies of the tokenizer's files,
// then puts the folder in the place of `out` in one step (renameat2), so that a reader, or a crash, sees the old folder
// or the new one. Files of `out` that are none of these are kept. Throws std::runtime_error "PATH: REASON".
void write_hf_folder(const std::filesystem::path& out, const ModelShape& shape, const Decoder& decoder,
                     const std::filesystem::path& tokenizer, const std::string& card);

}  // namespace assay::train::tasks
