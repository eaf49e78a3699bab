#include "trainer/grpo/adapter_io.h"

#include <ATen/ATen.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "support/files.h"
#include "support/safetensors.h"

namespace assay::train {

void write_adapter(const std::filesystem::path& folder, const std::vector<NamedTensor>& adapter,
                   const spec::LoraConfig& lora, const std::string& base_model) {
  std::filesystem::create_directories(folder);
  std::vector<at::Tensor> held;
  std::map<std::string, support::TensorView> views;
  for (const auto& parameter : adapter) {
    held.push_back(parameter.tensor.detach().to(at::kCPU).contiguous());
    const auto& tensor = held.back();
    views[parameter.name] = {"F32", tensor.sizes().vec(), static_cast<const std::byte*>(tensor.const_data_ptr()),
                             tensor.nbytes()};
  }
  support::write_safetensors(folder / "adapter_model.safetensors", views, {{"format", "pt"}});
  const nlohmann::json config{{"peft_type", "LORA"},
                              {"task_type", "CAUSAL_LM"},
                              {"base_model_name_or_path", base_model},
                              {"r", lora.rank},
                              {"lora_alpha", lora.alpha},
                              {"lora_dropout", lora.dropout},
                              {"target_modules", lora.targets},
                              {"bias", "none"},
                              {"fan_in_fan_out", false},
                              {"inference_mode", true},
                              {"init_lora_weights", lora.init == "gaussian" ? nlohmann::json("gaussian") : nlohmann::json(true)},
                              {"modules_to_save", nullptr},
                              {"use_rslora", false},
                              {"use_dora", false}};
  support::write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n");
}

spec::LoraConfig read_lora_config(const std::filesystem::path& folder) {
  const auto file = folder / "adapter_config.json";
  try {
    const auto json = nlohmann::json::parse(support::read_file(file));
    spec::LoraConfig lora;
    lora.rank = json.at("r").get<std::int64_t>();
    lora.alpha = json.at("lora_alpha").get<double>();
    if (!json.at("target_modules").is_array())
      throw std::runtime_error("target_modules must be a list of names: a pattern is not supported");
    lora.targets = json.at("target_modules").get<std::vector<std::string>>();
    if (json.value("peft_type", "LORA") != "LORA") throw std::runtime_error("peft_type must be LORA");
    if (json.value("bias", "none") != "none") throw std::runtime_error("bias other than none is not supported");
    // Each changes what the adapter adds, or where; null, false and empty mean that it is not in use.
    for (const char* key : {"use_rslora", "use_dora", "use_qalora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern",
                            "layers_to_transform", "layer_replication", "modules_to_save", "exclude_modules",
                            "target_parameters", "trainable_token_indices", "alora_invocation_tokens"}) {
      const auto value = json.find(key);
      if (value == json.end() || value->is_null() || *value == false || ((value->is_array() || value->is_object()) && value->empty()))
        continue;
      throw std::runtime_error(std::string(key) + " is not supported");
    }
    if (lora.rank < 1) throw std::runtime_error("r must be at least 1");
    return lora;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    throw std::runtime_error(what.starts_with(file.string()) ? what : file.string() + ": " + what);
  }
}

void read_adapter(const std::filesystem::path& folder, const std::vector<NamedTensor>& adapter) {
  const auto path = folder / "adapter_model.safetensors";
  const auto file = support::SafetensorsFile::open(path);
  const auto& tensors = file.tensors();
  for (const auto& parameter : adapter) {
    const auto found = tensors.find(parameter.name);
    if (found == tensors.end())
      throw std::runtime_error(path.string() + ": there is no tensor " + parameter.name);
    const support::TensorView& view = found->second;
    if (view.dtype != "F32" || view.shape != parameter.tensor.sizes().vec())
      throw std::runtime_error(path.string() + ": " + parameter.name + " has another shape or dtype than the config's adapter");
    const at::NoGradGuard no_grad;
    auto values = at::empty(view.shape, at::kFloat);
    std::memcpy(values.mutable_data_ptr(), view.data, view.bytes);
    parameter.tensor.copy_(values);
  }
  if (tensors.size() != adapter.size())
    throw std::runtime_error(path.string() + ": it holds " + std::to_string(tensors.size()) + " tensors and the config's adapter " +
                             std::to_string(adapter.size()));
}

}  // namespace assay::train
