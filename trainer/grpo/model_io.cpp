#include "trainer/grpo/model_io.h"

#include <ATen/ATen.h>

#include <map>
#include <nlohmann/json.hpp>

#include "support/files.h"
#include "support/safetensors.h"

namespace assay::train {

namespace fs = std::filesystem;

void write_model(const fs::path& folder, const std::vector<NamedTensor>& weights, const fs::path& source) {
  fs::create_directories(folder);
  auto config = nlohmann::json::parse(support::read_file(source / "config.json"));
  for (const char* key : {"torch_dtype", "dtype"})
    if (config.contains(key)) config[key] = "float32";
  support::write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"})
    if (fs::exists(source / name)) support::write_file_atomically(folder / name, support::read_file(source / name));

  std::vector<at::Tensor> held;
  std::map<std::string, support::TensorView> views;
  for (const auto& weight : weights) {
    held.push_back(weight.tensor.detach().to(at::kCPU, at::kFloat).contiguous());
    const auto& tensor = held.back();
    views[weight.name] = {"F32", tensor.sizes().vec(), static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
  }
  support::write_safetensors(folder / "model.safetensors", views, {{"format", "pt"}});
}

}  // namespace assay::train
