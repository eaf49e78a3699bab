// Logits of token sequences, for parity with other programs:  model_logits MODEL OUT.safetensors [ADAPTER] [--bf16] < lines
//                                                         model_logits MODEL --greedy TOKENS < lines
// Each line of standard input is a JSON list of ids; OUT holds "logits.0" [T, V] and so on. --greedy prints a line of
// TOKENS ids for each, all sampled at once, end of text or not.
#include <ATen/ATen.h>

#include <cstdio>
#include <deque>
#include <iostream>
#include <nlohmann/json.hpp>

#include "support/safetensors.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/model/decoder.h"
#include "trainer/rollout/sampler.h"

using namespace assay;
using namespace assay::train;

namespace {

void print_greedy(Decoder& decoder, std::int64_t tokens) {
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::string line; std::getline(std::cin, line);) prompts.push_back(nlohmann::json::parse(line).get<std::vector<std::int32_t>>());
  SamplerOptions options;
  options.temperature = 0;
  options.max_new_tokens = tokens;
  for (const auto& response : sample(decoder, prompts, options).responses) std::cout << nlohmann::json(response).dump() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  try {
    const at::NoGradGuard no_grad;
    Decoder decoder = Decoder::load(argv[1]);
    if (std::string(argv[argc - 1]) == "--bf16") {
      decoder.set_bf16();
      --argc;
    }
    if (argc == 4 && std::string(argv[2]) == "--greedy") {
      print_greedy(decoder, std::stoll(argv[3]));
      return 0;
    }
    if (argc > 3) {
      const std::filesystem::path adapter = argv[3];
      decoder.attach_lora(read_lora_config(adapter), 0);
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
