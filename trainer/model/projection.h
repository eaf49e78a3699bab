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

#include "quant/torch/exact.h"
#include "quant/torch/gradient.h"
#include "trainer/model/decoder.h"
#include "trainer/model/ops.h"

namespace assay::train {

// The quantizers of a whole decoder and when they act, and the arithmetic around them.
struct Quantizers {
  quant::Spec activation, weight;
  int weight_axis = 1;
  std::optional<std::uint16_t> signs;         // of the Hadamard transform in front of every quantizer; absent: none
  std::optional<quant::GradientSpec> gradient;  // of what goes back through quantized layers; absent: fp32
  bool gradient_on = true;
  bool ste = false, post = false, in_training = false, in_rollout = false;
  ActivationQuantizer quantize;
  Decoder::Observer observer;
  Phase phase = Phase::training;
  at::Tensor ended;   // bool [M, 1], while rows that have ended are decoded along: they have no part in a tensor's scale
  bool bf16 = false;  // model.dtype: what flows between operations is rounded
  bool exact = false;  // the device's bf16 units add in fp32: W4A4 products go to them

  // Every draw of random numbers has a seed of its own, in the order of the draws since restart(). Those of gradients are
  // counted apart: a pass without a graph has none, and its activations are to be rounded alike.
  void restart(std::uint64_t seed) {
    base_seed_ = seed;
    draws_ = gradient_draws_ = 0;
  }
  std::uint64_t next_seed() { return base_seed_ + ++draws_; }
  std::uint64_t next_gradient_seed() { return ~base_seed_ + ++gradient_draws_; }

  at::Tensor flow(const at::Tensor& x) const { return bf16 ? bf16_rounded(x) : x; }
  bool acts() const {
    const bool trained = phase == Phase::training || phase == Phase::evaluation;
    return (trained && in_training) || (phase == Phase::rollout && in_rollout);
  }

 private:
  std::uint64_t base_seed_ = 0, draws_ = 0, gradient_draws_ = 0;
};

// A weight as its quantizer makes it. `stats` as in quant::fake_quantize().
at::Tensor quantized_weight(const at::Tensor& weight, const Quantizers& quantizers, std::uint64_t seed,
                            quant::ErrorStats* stats = nullptr);

// Whether the values that a layer with such quantizers multiplies are codes times scales: not behind a rotation and its inverse,
// or rounded to bf16, or where a quantizer sits behind the product.
bool multiplies_codes(const Quantizers& quantizers, bool weights, bool activations);
// The same weight as an exact product takes it. Not with signs.
quant::ExactOperand exact_weight(const at::Tensor& weight, const Quantizers& quantizers, std::uint64_t seed);
// Whether it is default_activation_quantizer(): another one's results need not be codes and scales.
bool is_default(const ActivationQuantizer& quantizer);

// How the adapters of a decoder take part in a pass.
struct AdapterUse {
  bool on = true;
  double dropout = 0;
  std::optional<at::Generator> masks;
};

// Inputs already quantized: q, k and v (gate and up) are given the same tensor and get the same result.
class Memo {
 public:
  struct Entry {
    at::Tensor x;         // what was to be quantized
    at::Tensor seen, to;  // what the quantizer saw and made: x itself, or rotated
    at::Tensor result;
    std::uint64_t seed = 0;       // that it was rounded with
    // Of what the quantizer saw and made; undefined where no product has asked for them.
    quant::ExactOperand operand;
    std::shared_ptr<const CodedRows> coded;
  };
  Entry* find(const at::Tensor& x) {
    for (Entry& entry : made_)
      if (entry.x.is_same(x)) return &entry;
    return nullptr;
  }
  void keep(Entry entry) { made_.push_back(std::move(entry)); }

 private:
  std::vector<Entry> made_;
};

class Projection {
 public:
  std::string name;
  Matrix weight, quantized;                // quantized: undefined where the weight is not
  at::Tensor bias;                         // undefined: none
  std::unique_ptr<LoraPair> lora;
  std::shared_ptr<AdapterUse> use;         // one for the whole decoder; null without an adapter
  bool on_wrapper = false, on_base = false;  // activation quantizers
  // `quantized` as an exact product takes it, where attach_by_rule() finds that the layer's could be one.
  quant::ExactOperand exact;
  std::shared_ptr<const CodedWeight> coded;  // the same for the kernels
  std::uint64_t weight_seed = 0;           // of stochastic rounding; the same in every step

  // x [M, in] -> [M, out].
  at::Tensor forward(const at::Tensor& x, Quantizers& quantizers, Memo& memo);
  // For what an optimizer may have written to since.
  void refresh(bool base, const Quantizers& quantizers);

 private:
  std::uint32_t quantized_version_ = 0;  // of the weight that `quantized` was made of; 0: where it was attached
  enum class With { nothing, operand, coded };  // what a product takes beside the values
  Memo::Entry quantize(const at::Tensor& x, const char* suffix, Quantizers& quantizers, Memo* memo, With with = With::nothing) const;
};

}  // namespace assay::train
