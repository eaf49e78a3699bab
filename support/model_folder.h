// The weights of a Hugging Face folder: model.safetensors, or the shards that model.safetensors.index.json lists.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/safetensors.h"

namespace assay::support {

inline constexpr const char* kIndexName = "model.safetensors.index.json";

class ModelFolder {
 public:
  struct Shard {
    std::string name;  // of the file, in the folder
    SafetensorsFile file;
  };

  // model.safetensors wins when there are both, as in transformers. Throws as SafetensorsFile::open; also when the folder
  // has neither, a shard is missing, or index and shards disagree.
  static ModelFolder open(const std::filesystem::path& folder);
  const TensorView* find(const std::string& name) const;  // nullptr: there is none
  std::vector<std::string> names() const;                 // of the tensors, sorted
  const std::vector<Shard>& shards() const { return shards_; }
  bool has_index() const { return has_index_; }           // false: model.safetensors alone

 private:
  std::vector<Shard> shards_;
  std::map<std::string, const TensorView*> tensors_;
  bool has_index_ = false;
};

}  // namespace assay::support
