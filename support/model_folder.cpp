#include "support/model_folder.h"

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "support/strict_json.h"

namespace assay::support {
namespace {

constexpr const char* kDamaged = "; the file is damaged: copy or download it again";

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what, const char* advice = kDamaged) {
  throw std::runtime_error(file.string() + ": " + what + advice);
}

}  // namespace

ModelFolder ModelFolder::open(const std::filesystem::path& folder) {
  ModelFolder model;
  const auto single = folder / "model.safetensors", index = folder / kIndexName;
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    model.shards_.push_back({single.filename(), SafetensorsFile::open(single)});
    for (const auto& [name, view] : model.shards_.back().file.tensors()) model.tensors_[name] = &view;
    return model;
  }
  if (!std::filesystem::exists(index, ignored)) {
    if (!std::filesystem::is_directory(folder, ignored))
      fail(folder, "is not a folder", "; give the folder of a Hugging Face model");
    fail(folder, "has neither model.safetensors nor model.safetensors.index.json",
         "; give the folder of a Hugging Face model saved as safetensors");
  }

  model.has_index_ = true;
  nlohmann::json json;
  try {
    json = parse_strict_json(read_file(index));
  } catch (const std::runtime_error& error) {
    fail(index, std::string("is no JSON: ") + error.what());
  }
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object()) fail(index, "has no weight_map");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) fail(index, "has a weight_map whose '" + name + "' is not a file name");
    const auto text = shard.get<std::string>();
    if (text.empty() || std::filesystem::path(text).filename() != text || text == "." || text == "..")
      fail(index, "names a shard '" + text + "' that is not a file of the same folder");
    shards[text].insert(name);
  }
  for (const auto& [shard, names] : shards) {
    if (!std::filesystem::exists(folder / shard, ignored))
      fail(folder / shard, std::string("is not there, and ") + kIndexName + " names it as a shard", "; fetch that file too");
    model.shards_.push_back({shard, SafetensorsFile::open(folder / shard)});
    const auto& tensors = model.shards_.back().file.tensors();
    for (const std::string& name : names)
      if (!tensors.contains(name)) fail(folder / shard, "has no tensor '" + name + "', which the index places there");
    for (const auto& [name, view] : tensors) {
      if (!names.contains(name)) fail(folder / shard, "has a tensor '" + name + "' that the index does not place there");
      model.tensors_[name] = &view;
    }
  }
  return model;
}

const TensorView* ModelFolder::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : at->second;
}

std::vector<std::string> ModelFolder::names() const {
  std::vector<std::string> result;
  for (const auto& [name, view] : tensors_) result.push_back(name);
  return result;
}

}  // namespace assay::support
