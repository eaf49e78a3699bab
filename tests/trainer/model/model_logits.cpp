// Logits of token sequences, for parity with other programs:  model_logits MODEL OUT.safetensors [ADAPTER] < lines
// Each line of standard input is a JSON list of ids; OUT holds "logits.0" [T, V] and so on.
#include <ATen/ATen.h>

#include <cstdio>
#include <deque>
#include <iostream>
#include <nlohmann/json.hpp>

#include "support/files.h"
#include "support/safetensors.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/model/decoder.h"

using namespace assay;
using namespace assay::train;

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  try {
    const at::NoGradGuard no_grad;
    Decoder decoder = Decoder::load(argv[1]);
    if (argc > 3) {
      const std::filesystem::path adapter = argv[3];
      const auto config = nlohmann::json::parse(support::read_file(adapter / "adapter_config.json"));
      spec::LoraConfig lora;
      lora.rank = config.at("r").get<std::int64_t>();
      lora.alpha = config.at("lora_alpha").get<double>();
      lora.targets = config.at("target_modules").get<std::vector<std::string>>();
      decoder.attach_lora(lora, 0);
      read_adapter(adapter, decoder.adapter());
    }
    std::map<std::string, support::TensorView> views;
    std::deque<at::Tensor> kept;
    std::string line;
    for (int i = 0; std::getline(std::cin, line); ++i) {
      const auto ids = nlohmann::json::parse(line).get<std::vector<std::int64_t>>();
      const auto length = static_cast<std::int64_t>(ids.size());
      kept.push_back(decoder.forward(at::tensor(ids, at::kLong).unsqueeze(0), at::tensor({length}, at::kLong))[0].contiguous());
      views["logits." + std::to_string(i)] = {"F32", kept.back().sizes().vec(),
                                              static_cast<const std::byte*>(kept.back().const_data_ptr()),
                                              kept.back().nbytes()};
    }
    support::write_safetensors(argv[2], views);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_logits: %s\n", error.what());
    return 1;
  }
}
