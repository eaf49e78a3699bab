// What a run leaves behind for other programs: the base with the adapter added to it, or the adapter by itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace assay::train {

struct MergeOptions {
  std::filesystem::path adapter;  // folder in PEFT's form
  std::filesystem::path base;     // Hugging Face folder; one file or shards, F32, BF16 or F16
  std::filesystem::path out;      // must not exist; appears whole or not at all
  std::string dtype = "fp32";     // of the weights that are written: fp32 | bf16 | fp16
};

struct MergeReport {
  std::int64_t tensors = 0, merged = 0;  // in the folder; of them changed
  std::uint64_t bytes = 0;
};

// Writes an ordinary Hugging Face folder: every weight W that the adapter has a pair for becomes W + alpha / r · B·A
// (computed in float64, rounded once), all are stored in `dtype`, the other files are the base's, config.json says the
// dtype. Shards stay as they are in the base. Memory: one tensor. Throws BadInput for a folder that cannot be merged:
// an adapter tensor without its counterpart, another shape, a base that is packed, an OUT that exists.
MergeReport write_merged(const MergeOptions& options);

// Copies the adapter folder, its config naming `base` by an absolute path: what peft.PeftModel.from_pretrained opens.
MergeReport write_peft(const MergeOptions& options);

}  // namespace assay::train
