#include "trainer/verbs/open_model.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/files.h"
#include "support/suggest.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/exit_code.h"

namespace assay::train {

namespace {

// What of adapter_config.json shapes the mathematics.
spec::LoraConfig lora_of(const std::filesystem::path& file) {
  const auto json = nlohmann::json::parse(support::read_file(file));
  spec::LoraConfig lora;
  lora.rank = json.at("r").get<std::int64_t>();
  lora.alpha = json.at("lora_alpha").get<double>();
  lora.targets = json.at("target_modules").get<std::vector<std::string>>();
  if (json.value("peft_type", "LORA") != "LORA") throw std::runtime_error("peft_type must be LORA");
  if (json.value("bias", "none") != "none") throw std::runtime_error("bias other than none is not supported");
  for (const char* key : {"use_rslora", "use_dora"})
    if (json.value(key, false)) throw std::runtime_error(std::string(key) + " is not supported");
  if (lora.rank < 1) throw std::runtime_error("r must be at least 1");
  return lora;
}

}  // namespace

Decoder open_model(const std::filesystem::path& folder, const std::filesystem::path& adapter, int threads) {
  at::set_num_threads(threads);
  try {
    Decoder decoder = Decoder::load(folder);
    if (!adapter.empty()) {
      const auto file = adapter / "adapter_config.json";
      try {
        decoder.attach_lora(lora_of(file), 0);
      } catch (const std::exception& error) {
        throw std::runtime_error(file.string() + ": " + error.what());
      }
      read_adapter(adapter, decoder.adapter());
    }
    return decoder;
  } catch (const std::runtime_error& error) {
    throw BadInput(error.what());
  }
}

void refuse_unknown(const nlohmann::json& line, const std::vector<std::string>& known) {
  for (const auto& [key, value] : line.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      throw std::runtime_error("unknown key '" + key + "'" + support::did_you_mean(key, known));
}

std::vector<std::int32_t> ids_of(const nlohmann::json& list, std::int64_t vocabulary) {
  if (!list.is_array()) throw std::runtime_error("\"ids\" must be a list");
  std::vector<std::int32_t> ids;
  for (const auto& entry : list) {
    if (!entry.is_number_unsigned() || entry.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary))
      throw std::runtime_error("the model has no id " + entry.dump());
    ids.push_back(entry.get<std::int32_t>());
  }
  return ids;
}

}  // namespace assay::train
