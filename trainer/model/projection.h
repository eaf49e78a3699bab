// One linear layer of the decoder: frozen weight and its quantized copy, LoRA, activation quantizers.
//
// As in PEFT there are two modules here: the wrapper (model.layers.0.self_attn.q_proj) and, once LoRA is attached, the
// wrapped layer (the same with .base_layer). Each can carry an activation quantizer of its own.
#pragma once

#include <ATen/core/Generator.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/model/decoder.h"
#include "trainer/model/ops.h"

namespace assay::train {

// The quantizers of a whole decoder and when they act, and the arithmetic around them.
struct Quantizers {
  quant::Spec activation, weight;
  int weight_axis = 1;
  bool ste = false, post = false, in_training = false, in_rollout = false;
  ActivationQuantizer quantize;
  Decoder::Observer observer;
  Phase phase = Phase::training;
  bool bf16 = false;  // model.dtype: what flows between operations is rounded

  at::Tensor flow(const at::Tensor& x) const { return bf16 ? bf16_rounded(x) : x; }
  bool acts() const {
    const bool trained = phase == Phase::training || phase == Phase::evaluation;
    return (trained && in_training) || (phase == Phase::rollout && in_rollout);
  }
};

// How the adapters of a decoder take part in a pass.
struct AdapterUse {
  bool on = true;
  double dropout = 0;
  std::optional<at::Generator> masks;
};

// Inputs already quantized: q, k and v (gate and up) are given the same tensor and get the same result.
class Memo {
 public:
  const at::Tensor* find(const at::Tensor& x) const {
    for (const auto& [from, to] : made_)
      if (from.is_same(x)) return &to;
    return nullptr;
  }
  void keep(const at::Tensor& x, const at::Tensor& xq) { made_.emplace_back(x, xq); }

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> made_;
};

class Projection {
 public:
  std::string name;
  Matrix weight, quantized;                // quantized: undefined where the weight is not
  at::Tensor bias;                         // undefined: none
  std::unique_ptr<LoraPair> lora;
  std::shared_ptr<AdapterUse> use;         // one for the whole decoder; null without an adapter
  bool on_wrapper = false, on_base = false;  // activation quantizers

  // x [M, in] -> [M, out].
  at::Tensor forward(const at::Tensor& x, const Quantizers& quantizers, Memo& memo);
  // For what an optimizer may have written to since.
  void refresh(bool base, const Quantizers& quantizers);

 private:
  std::uint32_t quantized_version_ = 0;  // of the weight that `quantized` was made of; 0: where it was attached
  at::Tensor quantize(const at::Tensor& x, const char* suffix, const Quantizers& quantizers, Memo* memo) const;
};

}  // namespace assay::train
