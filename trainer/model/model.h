// The parts of a decoder, as the files of this folder share them.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "trainer/model/accelerator.h"
#include "trainer/model/attention.h"
#include "trainer/model/decoder.h"
#include "trainer/model/projection.h"

namespace assay::train {

struct Layer {
  at::Tensor input_norm, post_norm;
  at::Tensor q_norm, k_norm;  // [E]; undefined: the family has none
  at::Tensor input_noise, post_noise;  // what is added to the norms' weights; undefined: nothing
  Projection q, k, v, o, gate, up, down;
  std::array<Projection*, 7> projections() { return {&q, &k, &v, &o, &gate, &up, &down}; }
};

struct Model {
  ModelShape shape;
  Heads heads;
  at::Tensor embedding;  // [V, D]
  std::vector<Layer> layers;
  at::Tensor norm, norm_noise;
  bool noise_in_rollout = false, noise_in_training = false;
  Matrix head;           // [V, D]; the embedding itself where tied
  Rope rope;
  Quantizers quantizers;
  Decoder::LayerObserver layer_observer;
  std::shared_ptr<AdapterUse> adapter_use;  // null without an adapter
  bool base_trainable = false, has_lora = false, has_quantizers = false;
  bool lean = false, keep_unquantized = true;  // see Decoder::set_lean
  bool aten = false;  // computes by LibTorch's operations (aten.h)
  Accelerator* accelerator = nullptr;

  // Every weight under its Hugging Face name, in model order; the tied head left out.
  std::vector<NamedTensor> named() const;
  // To be called where a pass over the model begins: packed forms of weights that may have been written to are made
  // anew. A pass, decoding included, then sees the adapter as it was at its beginning.
  void refresh();

  at::Device device() const { return embedding.device(); }
  // Throws std::runtime_error where a prompt of this length and so many new tokens have no positions; else covers them.
  void check_positions(std::int64_t longest, std::int64_t max_new);
  // Of a layout's tokens, covered before.
  Positions positions(const std::shared_ptr<const std::vector<std::int32_t>>& host) const;

  // One decoder layer's parts around attention, on packed rows.
  struct Queries {
    at::Tensor q, k, v;  // q and k rotated
  };
  Queries queries(Layer& layer, const at::Tensor& x, const Positions& positions);
  at::Tensor after_attention(Layer& layer, const at::Tensor& x, const at::Tensor& attended);
  at::Tensor embed(const at::Tensor& ids) const;  // int64 [M] -> [M, D]
  // A norm with its noise, where noise acts in the present phase.
  at::Tensor normalize(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& noise) const;
};

struct Decoder::Impl : Model {};

// Allocates every tensor of the shape, uninitialised.
Model empty_model(const ModelShape& shape);
// "model.layers.3.self_attn.q_proj" and the like: all of a projection's own names.
std::string projection_name(std::int64_t layer, const std::string& projection);

AttachReport attach_by_rule(Model& model, const spec::QuantConfig& quant, ActivationQuantizer quantizer,
                            std::uint64_t seed);
void attach_adapter(Model& model, const spec::LoraConfig& lora, std::uint64_t seed);

}  // namespace assay::train
