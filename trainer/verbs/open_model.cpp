#include "trainer/verbs/open_model.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/suggest.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/exit_code.h"

namespace assay::train {

Decoder open_model(const std::filesystem::path& folder, const std::filesystem::path& adapter, int threads,
                   const std::string& dtype) {
  at::set_num_threads(threads);
  try {
    Decoder decoder = Decoder::load(folder);
    if (dtype == "bf16") decoder.set_bf16();
    if (!adapter.empty()) {
      const spec::LoraConfig lora = read_lora_config(adapter);
      try {
        decoder.attach_lora(lora, 0);
      } catch (const std::exception& error) {
        throw std::runtime_error((adapter / "adapter_config.json").string() + ": " + error.what());
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
