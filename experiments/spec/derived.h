// What follows from a Config and the files it names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "experiments/spec/config.h"

namespace assay::spec {

struct ModelFacts {
  std::int64_t layers = -1;  // -1: not known
  std::string problem;       // why not; empty: known
};
// Reads config.json of a Hugging Face folder.
ModelFacts read_model_facts(const std::filesystem::path& folder);

// Counts and updates; the paths are the caller's, who knows which file wrote them.
Derived derive(const Config& config, const std::string& model_path, const std::string& train_path,
               const std::string& test_path, std::int64_t layers);

}  // namespace assay::spec
