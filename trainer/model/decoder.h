// The decoder of the Qwen2, Qwen3 and Llama families, with LoRA and quantizers attached by rule.
//
// Dimensions: P prompts, B response rows (B = P * G when every prompt has G samples), T prompt length (padded),
// R response length, D hidden size, H heads, K key/value heads, E head size, V vocabulary, L layers.
//
// A prompt is computed once for all of its samples: prefill() gives its keys and values, and both sampling and the
// training forward run response rows against them. The two use the same layers, so what differs between the
// sampler's and the trainer's log-probs is float summation and nothing else (docs/decisions.md). Here not even that:
// the kernels compute a token in one order whatever the batch (kernels/kernels.h).
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quant/formats.h"
#include "quant/reference.h"
#include "experiments/spec/config.h"

namespace assay::train {

// Rotary positions: pair i of a head turns by position × theta^(-2i / E), changed as config.json's rope_scaling says.
struct RopeScaling {
  std::string type = "default";  // default | linear | llama3
  double factor = 1;             // linear: every frequency is divided by it
  // llama3 (Llama 3.1 and later): wavelengths above original / low_freq_factor are divided by factor, those below
  // original / high_freq_factor stay, in between it is blended.
  double low_freq_factor = 1, high_freq_factor = 4, original_positions = 8192;
};

// config.json, the fields that shape the mathematics. A field that changes them and is not supported is refused by name.
struct ModelShape {
  std::string family;  // qwen2 | qwen3 | llama
  std::int64_t vocabulary = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_size = 0, intermediate = 0;
  std::int64_t max_positions = 0;
  double rope_theta = 10000, rms_eps = 1e-6;
  RopeScaling rope;
  bool tied = false, qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;  // Qwen3: each head of q and k through an RMS norm of its own, before it is rotated
  std::vector<std::int32_t> eos_ids;  // config.json and generation_config.json together
  static ModelShape read(const std::filesystem::path& folder);  // throws std::runtime_error "FILE: WHAT"
};

// When a quantizer acts: QuantConfig.apply_during names phases of this kind.
enum class Phase : std::uint8_t {
  rollout,   // sampling
  training,  // the forward pass that is differentiated
  evaluation,  // quantized as training is, without what only training has (noise)
  off,       // no quantization at all
};

struct AttachedModule {
  std::string name;         // model.layers.0.self_attn.q_proj, or the same with .base_layer
  std::string projection;   // model.layers.0.self_attn.q_proj
  bool weight = false, activation = false;
  std::string hook, blocking;
  double weight_sqnr_db = 0;  // 0 where the weight is not quantized
};

struct AttachReport {
  std::vector<AttachedModule> modules;  // in model order, each once
  std::vector<std::string> twice;       // projections that have a quantizer on the wrapper and on its base layer
  std::int64_t projections = 0;         // distinct
  std::string label;                    // spec::quant_label
};

// Quantizes an activation; `ste` as configured. Replaceable, so that a test can plant a broken estimator.
using ActivationQuantizer = std::function<at::Tensor(const at::Tensor& x, const quant::Spec& spec, bool ste)>;
ActivationQuantizer default_activation_quantizer();

struct NamedTensor {
  std::string name;  // PEFT's: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
  at::Tensor tensor;
};

// Token ids of several sequences of different length, none empty where a prompt is meant. Views: the caller keeps them.
using Rows = std::vector<std::span<const std::int32_t>>;
Rows rows_of(const std::vector<std::vector<std::int32_t>>& sequences);

// Keys and values of prompts, per layer [sum of lengths, K * E]: packed, a prompt's tokens beside each other.
struct PromptCache {
  std::vector<at::Tensor> keys, values;
  std::vector<std::int64_t> start, length;  // of each prompt, in packed tokens
  at::Tensor last;     // hidden state of each prompt's last token after the final norm [P, D]
};

// Log-probs of chosen tokens, [M], and the entropy of the same distribution, detached unless asked for otherwise.
struct ScoredTokens {
  at::Tensor logprobs, entropy;
};

class Accelerator;
class StaticDecode;

class Decoder {
 public:
  // Loads config.json and weights, in float32. Throws std::runtime_error: a missing or wrongly shaped tensor, or a
  // weight that is not finite, is named.
  static Decoder load(const std::filesystem::path& folder);
  // Fresh weights, N(0, 0.02) from `seed`, for pretraining.
  static Decoder fresh(const ModelShape& shape, std::uint64_t seed);
  ~Decoder();
  Decoder(Decoder&&) noexcept;

  const ModelShape& shape() const;
  // model.dtype = "bf16": rounds the weights to bfloat16 and from now on what every operation hands on (docs/series.md,
  // "Arithmetic"). Before anything is attached; not for a base that is trained.
  void set_bf16();
  // From now on everything is computed by LibTorch's operations instead of the kernels of this project (aten.h): what a device
  // needs, and what tests ask for on the CPU. Before anything is attached.
  void set_aten();
  // All weights, adapters and quantized copies to the accelerator's device, which decoding then uses; tensors that were handed
  // out before stay where they were. After set_aten() and all that is attached. Without it decoding records no graphs.
  void move_to(Accelerator* accelerator);
  at::Device device() const;
  bool by_aten() const;
  Accelerator* accelerator() const;
  // LoRA on the target projections: A kaiming-uniform as PEFT, B zero, from `seed`. The base is frozen.
  // Throws std::runtime_error when a target matches no module.
  void attach_lora(const spec::LoraConfig& lora, std::uint64_t seed);
  // Keeps one form of each frozen weight instead of the three or four that the products read fastest: a third of the
  // memory, the same numbers, one more pass over the weights in each backward. Said before anything is attached, in force
  // from attach_lora() and attach_quantizers() on. Unless `unquantized_too`, a quantized projection then exists quantized
  // only, and a phase in which the quantizers do not act throws std::logic_error. base_weights() lists what is left.
  void set_lean(bool unquantized_too);
  // Quantizers by rule. Frozen weights are quantized once, here. Throws std::runtime_error when nothing matches.
  // `seed`: of the Hadamard transform's signs and of the weights' stochastic rounding.
  AttachReport attach_quantizers(const spec::QuantConfig& quant,
                                 ActivationQuantizer quantizer = default_activation_quantizer(), std::uint64_t seed = 0);
  // From here on activations and gradients that are rounded stochastically draw from this seed: a pass that is to be
  // repeated bit for bit begins with it. Without it they go on from attach_quantizers()' seed.
  void set_rounding_seed(std::uint64_t seed);
  // Whether gradients are quantized, where quant.backward says so; at first they are.
  void set_gradient_rounding(bool on);
  std::vector<std::string> projections() const;  // every linear layer of the decoder, model.layers.0.self_attn.q_proj …
  bool has_unquantized_weights() const;          // false: only what set_lean(false) and attach_quantizers() left
  const quant::Spec& activation_spec() const;  // of the activation quantizers attached; its seed is the last call's
  void set_phase(Phase phase);  // at first: training
  Phase phase() const;

  std::vector<NamedTensor> adapter() const;      // trainable LoRA tensors, model order, A before B
  std::vector<NamedTensor> trainable() const;    // adapter(), or base_weights() where the base is trainable
  // Whether the adapter takes part; at first it does. Off, the model is its base under the same quantization.
  void set_adapter(bool on);
  // From now on an adapter's input loses each element with probability p in [0, 1), and the others are divided by 1 - p
  // (PEFT's lora_dropout); masks are drawn from `seed` in the order of the passes. p = 0: off. Only updates turn it on.
  void set_dropout(double p, std::uint64_t seed);
  std::vector<NamedTensor> base_weights() const; // Hugging Face names; with tied embeddings no lm_head
  // Pretraining and full fine-tuning. Not with LoRA. Quantizers must be attached before: from then on weights are
  // quantized again where a pass begins and they have changed; their gradient passes straight through where quant.ste is
  // on, and there is none where it is off.
  void set_base_trainable(bool trainable);

  // Every pass works on packed rows: tokens of all sequences beside each other, no padding, so padding costs nothing
  // and is no part of an activation's tensor scale. A token's value does not depend on what else is in the batch, but
  // for the tensor scale of quant.tensor_scale = "tensor". Throws std::runtime_error for a token id outside of the
  // vocabulary, an empty prompt, or more positions than config.json has.

  // Forward of prompts. Differentiable.
  PromptCache prefill(const Rows& prompts);
  // Training forward of responses behind their prompts: hidden states after the final norm, packed [tokens, D].
  // Differentiable, through the prompts too. An empty response adds no token.
  at::Tensor respond(const PromptCache& prompts, const std::vector<std::int64_t>& prompt_of_row, const Rows& responses);
  // Log-probs of `targets` (int64 [M]) under softmax(logits(hidden) / temperature), without keeping logits: they exist
  // for a few rows at a time. Differentiable in hidden, and in the head where it is trainable. With
  // `entropy_gradient` the entropy is differentiable too, which costs one more product with the head.
  ScoredTokens score(const at::Tensor& hidden, const at::Tensor& targets, double temperature,
                     bool entropy_gradient = false);

  // The same two for padded tensors.
  // Forward of right-padded prompts; ids int64 [P, T], lengths int64 [P]. Differentiable.
  PromptCache prefill(const at::Tensor& ids, const at::Tensor& lengths);
  // Training forward of whole responses: ids int64 [B, R] right-padded, prompt_of_row int64 [B] into the cache;
  // response_lengths int64 [B]. Returns hidden states [B, R, D] after the final norm. Differentiable, through the prompts too.
  at::Tensor respond(const PromptCache& prompts, const at::Tensor& prompt_of_row, const at::Tensor& ids,
                     const at::Tensor& response_lengths);
  // Logits of hidden states [..., D] -> [..., V].
  at::Tensor logits(const at::Tensor& hidden) const;

  // All logits of right-padded sequences, for pretraining, parity and `logprobs`: [N, T] -> [N, T, V].
  at::Tensor forward(const at::Tensor& ids, const at::Tensor& lengths);

  // One decode step for rows that are still alive. Opaque cache, preallocated for max_new tokens; see rollout/sampler.
  // Weights and adapter must not change between begin_decode() and the last step.
  struct DecodeState;
  std::shared_ptr<DecodeState> begin_decode(PromptCache prompts, const std::vector<std::int64_t>& prompt_of_row,
                                            std::int64_t max_new);
  // ids int64 [B'] of the live rows -> hidden [B', D]. No gradient.
  at::Tensor decode_step(DecodeState& state, const at::Tensor& ids);
  // Keeps only these rows (indices into the live rows, ascending).
  void keep_rows(DecodeState& state, const std::vector<std::int64_t>& rows);

  // The same after set_aten(): decoding in fixed places (static_decode.h), of `rows_per_prompt` rows a prompt.
  std::unique_ptr<StaticDecode> begin_static_decode(const PromptCache& prompts, std::int64_t rows_per_prompt,
                                                    std::int64_t max_new);
  // Whether a step's work is the same each time: not where it draws a seed on the host or shows what it quantizes.
  bool steps_alike() const;

  // Noise that is added to the weights of norms, in the phases given and in no other: [D] tensors under the names of
  // base_weights(). The weights themselves are not written to. What is not named has none; it replaces the former noise.
  void set_norm_noise(const std::vector<NamedTensor>& noise, bool in_rollout, bool in_training);

  // Called with (module name, input of its quantizer, its result) by every activation quantizer; empty: none. Under
  // quant.hadamard both are rotated.
  using Observer = std::function<void(const std::string& module, const at::Tensor& x, const at::Tensor& xq)>;
  void set_observer(Observer observer);
  // Called with the residual stream behind each layer [tokens, D] by prefill() and respond(); empty: none.
  using LayerObserver = std::function<void(std::int64_t layer, const at::Tensor& hidden)>;
  void set_layer_observer(LayerObserver observer);
  // Puts another activation quantizer in the place of the one attached, which is returned: to find out what one of them
  // does. Throws std::logic_error when none is attached.
  ActivationQuantizer exchange_quantizer(ActivationQuantizer quantizer);

 private:
  struct Impl;
  explicit Decoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::train
