// Small models of known shape for the tests.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <string>
#include <vector>

#include "trainer/model/decoder.h"
#include "trainer/rollout/sampler.h"

namespace assay::test {

inline train::ModelShape tiny_shape(const std::string& family = "qwen2", std::int64_t layers = 2) {
  train::ModelShape shape;
  shape.family = family;
  shape.vocabulary = 61;
  shape.hidden = 48;
  shape.layers = layers;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_size = 12;
  shape.intermediate = 80;
  shape.max_positions = 256;
  shape.rms_eps = 1e-6;
  shape.tied = family == "qwen2";
  shape.qkv_bias = family == "qwen2";
  shape.eos_ids = {0};
  return shape;
}

inline at::Generator generator(std::uint64_t seed) { return at::detail::createCPUGenerator(seed); }

// Fresh weights made larger, so that a token's distribution is neither flat nor one-sided.
inline train::Decoder tiny_decoder(const train::ModelShape& shape = tiny_shape(), std::uint64_t seed = 7) {
  train::Decoder decoder = train::Decoder::fresh(shape, seed);
  const at::NoGradGuard no_grad;
  const auto random = generator(seed + 1);
  for (const auto& weight : decoder.base_weights()) {
    at::Tensor t = weight.tensor;
    if (weight.name.ends_with("norm.weight"))
      t.uniform_(0.5, 1.5, random);
    else if (weight.name.ends_with(".bias"))
      t.normal_(0, 0.3, random);
    else
      t.mul_(8.0);
  }
  return decoder;
}

inline spec::LoraConfig lora_config(std::int64_t rank = 4) {
  spec::LoraConfig lora;
  lora.rank = rank;
  lora.alpha = 8;
  return lora;
}

// LoRA whose B is not zero, so that every part of it shows.
inline void attach_random_lora(train::Decoder& decoder, const spec::LoraConfig& lora = lora_config(),
                               std::uint64_t seed = 3) {
  decoder.attach_lora(lora, seed);
  const at::NoGradGuard no_grad;
  const auto random = generator(seed + 1);
  for (const auto& t : decoder.adapter())
    if (t.name.ends_with("lora_B.weight")) at::Tensor(t.tensor).normal_(0, 0.05, random);
}

inline spec::QuantConfig quant_config(const std::string& hook, bool ste, const std::string& format = "nvfp4") {
  spec::QuantConfig quant;
  quant.format = format;
  quant.hook = hook;
  quant.ste = ste;
  return quant;
}

using Sequences = std::vector<std::vector<std::int32_t>>;

inline Sequences random_sequences(std::int64_t count, std::int64_t shortest, std::int64_t longest, std::uint64_t seed,
                                  std::int64_t vocabulary = 61) {
  const auto random = generator(seed);
  Sequences sequences;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto length = at::randint(shortest, longest + 1, {1}, random, at::kLong).item<std::int64_t>();
    const at::Tensor ids = at::randint(1, vocabulary, {std::max<std::int64_t>(length, 1)}, random, at::kLong);
    std::vector<std::int32_t> row;
    for (std::int64_t t = 0; t < length; ++t) row.push_back(static_cast<std::int32_t>(ids[t].item<std::int64_t>()));
    sequences.push_back(row);
  }
  return sequences;
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) { return a.sizes() == b.sizes() && a.equal(b); }
inline double gap(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace assay::test
