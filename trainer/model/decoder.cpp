// The forward passes: prompts, responses behind their prompts, whole sequences.
#include "trainer/model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <map>
#include <stdexcept>

#include "trainer/model/aten.h"
#include "trainer/model/head.h"
#include "trainer/model/model.h"
#include "trainer/model/static_decode.h"

namespace assay::train {

Decoder::Decoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

Rows rows_of(const std::vector<std::vector<std::int32_t>>& sequences) {
  return Rows(sequences.begin(), sequences.end());
}

// ---- the model's parts ----

void Model::refresh() {
  for (Layer& layer : layers)
    for (Projection* p : layer.projections()) p->refresh(base_trainable, quantizers);
  if (base_trainable) head.refresh();
}

at::Tensor Model::embed(const at::Tensor& ids) const { return at::embedding(embedding, ids); }

at::Tensor Model::normalize(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& noise) const {
  const bool acts = noise.defined() && ((quantizers.phase == Phase::rollout && noise_in_rollout) ||
                                        (quantizers.phase == Phase::training && noise_in_training));
  return quantizers.flow(rms_norm(x, acts ? weight + noise : weight, shape.rms_eps));
}

void Model::check_positions(std::int64_t longest, std::int64_t max_new) {
  if (longest + max_new > shape.max_positions)
    throw std::runtime_error("a prompt of " + std::to_string(longest) + " tokens and " + std::to_string(max_new) +
                             " new ones need more than the model's " + std::to_string(shape.max_positions) + " positions");
  rope.cover(longest + max_new);
}

Positions Model::positions(const std::shared_ptr<const std::vector<std::int32_t>>& host) const {
  if (!aten) return {host, {}, {}};
  const at::Tensor index = at::tensor(at::ArrayRef<std::int32_t>(*host), at::kInt).to(device());
  return {host, rope.cosine_tensor().index_select(0, index).unsqueeze(1), rope.sine_tensor().index_select(0, index).unsqueeze(1)};
}

Model::Queries Model::queries(Layer& layer, const at::Tensor& x, const Positions& positions) {
  const at::Tensor z = normalize(x, layer.input_norm, layer.input_noise);
  Memo memo;
  at::Tensor q = layer.q.forward(z, quantizers, memo), k = layer.k.forward(z, quantizers, memo);
  const auto by_head = [&](const at::Tensor& y, const at::Tensor& w) {
    return quantizers.flow(rms_norm(y.view({-1, heads.size}), w, shape.rms_eps).view(y.sizes()));
  };
  if (shape.qk_norm) {
    q = by_head(q, layer.q_norm);
    k = by_head(k, layer.k_norm);
  }
  return {quantizers.flow(rotate(q, heads.heads, rope, positions)), quantizers.flow(rotate(k, heads.kv_heads, rope, positions)),
          layer.v.forward(z, quantizers, memo)};
}

at::Tensor Model::after_attention(Layer& layer, const at::Tensor& x, const at::Tensor& attended) {
  Memo memo;
  const at::Tensor mixed = quantizers.flow(attended);
  const at::Tensor middle = quantizers.flow(x + layer.o.forward(mixed, quantizers, memo));
  const at::Tensor z = normalize(middle, layer.post_norm, layer.post_noise);
  const at::Tensor gate = layer.gate.forward(z, quantizers, memo);
  const at::Tensor up = layer.up.forward(z, quantizers, memo);
  return quantizers.flow(middle + layer.down.forward(quantizers.flow(swiglu(gate, up)), quantizers, memo));
}

namespace {

// Ids of all rows beside each other, int64.
at::Tensor packed_ids(const ModelShape& shape, const Rows& rows, std::vector<std::int64_t>& lengths) {
  std::int64_t total = 0;
  for (const auto& row : rows) {
    lengths.push_back(static_cast<std::int64_t>(row.size()));
    total += lengths.back();
  }
  at::Tensor ids = at::empty({total}, at::kLong);
  auto* to = ids.mutable_data_ptr<std::int64_t>();
  for (const auto& row : rows)
    for (const std::int32_t id : row) {
      if (id < 0 || id >= shape.vocabulary)
        throw std::runtime_error("token id " + std::to_string(id) + " is outside of the model's vocabulary of " +
                                 std::to_string(shape.vocabulary));
      *to++ = id;
    }
  return ids;
}

void cover(Model& model, std::int64_t positions) {
  if (positions > model.shape.max_positions)
    throw std::runtime_error("a sequence of " + std::to_string(positions) + " tokens is longer than the model's " +
                             std::to_string(model.shape.max_positions) + " positions");
  model.rope.cover(positions);
}

// Rows without a prompt, through all layers and the final norm; keys and values kept when asked.
at::Tensor run(Model& model, const Rows& rows, std::shared_ptr<const Layout>& layout, std::vector<at::Tensor>* keys,
               std::vector<at::Tensor>* values) {
  std::vector<std::int64_t> lengths;
  const AtenScope aten(model.aten);
  const at::Tensor ids = packed_ids(model.shape, rows, lengths).to(model.device());
  layout = Layout::of(lengths);
  cover(model, layout->longest);
  model.refresh();
  // What outlives the layers gets its place before them: left among the blocks that each layer takes and frees, it would
  // keep the next layer's from fitting there, and the heap would grow to several times what is in use.
  std::vector<at::Tensor> kept_keys, kept_values;
  if (keys && !at::GradMode::is_enabled()) {
    const std::vector<std::int64_t> all = {static_cast<std::int64_t>(model.layers.size()), layout->tokens, model.heads.key_width()};
    kept_keys = at::empty(all, at::TensorOptions(at::kFloat).device(model.device())).unbind();
    kept_values = at::empty(all, at::TensorOptions(at::kFloat).device(model.device())).unbind();
  }
  const Positions positions = model.positions(layout->positions);
  at::Tensor x = model.embed(ids);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    Layer& layer = model.layers[i];
    const Model::Queries now = model.queries(layer, x, positions);
    x = model.after_attention(layer, x, attention(now.q, now.k, now.v, {}, {}, layout, model.heads));
    if (model.layer_observer) model.layer_observer(static_cast<std::int64_t>(i), x);
    if (keys) {
      keys->push_back(kept_keys.empty() ? now.k : kept_keys[i].copy_(now.k));
      values->push_back(kept_values.empty() ? now.v : kept_values[i].copy_(now.v));
    }
  }
  return model.normalize(x, model.norm, model.norm_noise);
}

// Rows [lengths[i]] of a right-padded int64 tensor, in int32.
std::vector<std::vector<std::int32_t>> unpadded(const at::Tensor& ids, const at::Tensor& lengths) {
  TORCH_CHECK(ids.dim() == 2 && lengths.dim() == 1 && ids.size(0) == lengths.size(0), "ids [N, T] and lengths [N]");
  const at::Tensor own_ids = ids.to(at::kCPU, at::kLong).contiguous(), own_lengths = lengths.to(at::kCPU, at::kLong).contiguous();
  const auto* from = own_ids.const_data_ptr<std::int64_t>();
  const auto* length = own_lengths.const_data_ptr<std::int64_t>();
  std::vector<std::vector<std::int32_t>> rows(static_cast<std::size_t>(ids.size(0)));
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    TORCH_CHECK(length[i] >= 0 && length[i] <= ids.size(1), "a length outside of the padded tensor");
    for (std::int64_t t = 0; t < length[i]; ++t)
      rows[static_cast<std::size_t>(i)].push_back(static_cast<std::int32_t>(from[i * ids.size(1) + t]));
  }
  return rows;
}

// [tokens, D] -> [N, T, D], zeros behind each row's end.
at::Tensor padded(const at::Tensor& packed, const std::vector<std::int64_t>& lengths, std::int64_t width) {
  const auto n = static_cast<std::int64_t>(lengths.size());
  at::Tensor places = at::empty({packed.size(0)}, at::kLong);
  auto* to = places.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t t = 0; t < lengths[static_cast<std::size_t>(i)]; ++t) *to++ = i * width + t;
  const at::Tensor flat = at::zeros({n * width, packed.size(1)}, packed.options());
  return flat.index_copy(0, places.to(packed.device()), packed).view({n, width, packed.size(1)});
}

}  // namespace

// ---- Decoder ----

const ModelShape& Decoder::shape() const { return impl_->shape; }

void Decoder::attach_lora(const spec::LoraConfig& lora, std::uint64_t seed) { attach_adapter(*impl_, lora, seed); }

AttachReport Decoder::attach_quantizers(const spec::QuantConfig& quant, ActivationQuantizer quantizer, std::uint64_t seed) {
  return attach_by_rule(*impl_, quant, std::move(quantizer), seed);
}

void Decoder::set_bf16() {
  if (impl_->has_lora || impl_->has_quantizers || impl_->base_trainable)
    throw std::logic_error("bf16 is said before anything is attached");
  const at::NoGradGuard no_grad;
  for (const NamedTensor& weight : impl_->named()) at::Tensor(weight.tensor).copy_(bf16_rounded(weight.tensor));
  impl_->quantizers.bf16 = true;
}

void Decoder::set_aten() {
  if (impl_->has_lora || impl_->has_quantizers || impl_->base_trainable)
    throw std::logic_error("the path is said before anything is attached");
  impl_->aten = true;
}

void Decoder::move_to(Accelerator* accelerator) {
  if (!impl_->aten) throw std::logic_error("set_aten() comes before move_to()");
  const at::NoGradGuard no_grad;
  Model& model = *impl_;
  const at::Device device = accelerator->device();
  const auto move = [&](at::Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.detach().to(device).requires_grad_(tensor.requires_grad());
  };
  model.quantizers.exact = quant::exact_product_error(device) == 0;
  const bool tied = model.head.value().is_same(model.embedding);
  move(model.embedding);
  model.head = tied ? Matrix(model.embedding) : model.head.on(device);
  for (at::Tensor* tensor : {&model.norm, &model.norm_noise}) move(*tensor);
  for (Layer& layer : model.layers) {
    for (at::Tensor* tensor : {&layer.input_norm, &layer.post_norm, &layer.q_norm, &layer.k_norm, &layer.input_noise, &layer.post_noise})
      move(*tensor);
    for (Projection* p : layer.projections()) {
      p->weight = p->weight.on(device);
      p->quantized = p->quantized.on(device);
      if (!model.quantizers.exact) p->exact = {};
      move(p->exact.elements);
      move(p->exact.factor);
      move(p->bias);
      if (!p->lora) continue;
      p->lora->a = p->lora->a.on(device);
      p->lora->b = p->lora->b.on(device);
    }
  }
  model.rope.move_to(device);
  model.accelerator = accelerator;
}

at::Device Decoder::device() const { return impl_->device(); }
bool Decoder::by_aten() const { return impl_->aten; }
Accelerator* Decoder::accelerator() const { return impl_->accelerator; }

bool Decoder::steps_alike() const {
  return impl_->quantizers.activation.rounding != quant::Rounding::stochastic && !impl_->quantizers.observer;
}

std::unique_ptr<StaticDecode> Decoder::begin_static_decode(const PromptCache& prompts, std::int64_t rows_per_prompt,
                                                           std::int64_t max_new) {
  if (!impl_->aten) throw std::logic_error("this decoder decodes by begin_decode()");
  return std::make_unique<StaticDecode>(*impl_, prompts, rows_per_prompt, max_new);
}

void Decoder::set_rounding_seed(std::uint64_t seed) { impl_->quantizers.restart(seed); }
void Decoder::set_gradient_rounding(bool on) { impl_->quantizers.gradient_on = on; }

void Decoder::set_lean(bool unquantized_too) {
  if (impl_->has_lora || impl_->has_quantizers || impl_->base_trainable)
    throw std::logic_error("lean is said before anything is attached");
  impl_->lean = true;
  impl_->keep_unquantized = unquantized_too;
}

std::vector<std::string> Decoder::projections() const {
  std::vector<std::string> names;
  for (Layer& layer : impl_->layers)
    for (const Projection* p : layer.projections()) names.push_back(p->name);
  return names;
}

bool Decoder::has_unquantized_weights() const {
  for (Layer& layer : impl_->layers)
    for (const Projection* p : layer.projections())
      if (!p->weight.defined()) return false;
  return true;
}

const quant::Spec& Decoder::activation_spec() const { return impl_->quantizers.activation; }
void Decoder::set_phase(Phase phase) { impl_->quantizers.phase = phase; }
Phase Decoder::phase() const { return impl_->quantizers.phase; }
void Decoder::set_observer(Observer observer) { impl_->quantizers.observer = std::move(observer); }
void Decoder::set_layer_observer(LayerObserver observer) { impl_->layer_observer = std::move(observer); }

ActivationQuantizer Decoder::exchange_quantizer(ActivationQuantizer quantizer) {
  if (!impl_->has_quantizers) throw std::logic_error("there is no quantizer to exchange");
  std::swap(impl_->quantizers.quantize, quantizer);
  return quantizer;
}

std::vector<NamedTensor> Decoder::adapter() const {
  std::vector<NamedTensor> all;
  for (Layer& layer : impl_->layers)
    for (const Projection* p : layer.projections()) {
      if (!p->lora) continue;
      const std::string prefix = "base_model.model." + p->name;
      all.push_back({prefix + ".lora_A.weight", p->lora->a.value()});
      all.push_back({prefix + ".lora_B.weight", p->lora->b.value()});
    }
  return all;
}

std::vector<NamedTensor> Decoder::base_weights() const { return impl_->named(); }
std::vector<NamedTensor> Decoder::trainable() const { return impl_->base_trainable ? base_weights() : adapter(); }

void Decoder::set_adapter(bool on) {
  if (impl_->adapter_use) impl_->adapter_use->on = on;
}

void Decoder::set_dropout(double p, std::uint64_t seed) {
  if (!impl_->adapter_use) return;
  impl_->adapter_use->dropout = p;
  if (impl_->device().is_cpu()) {
    impl_->adapter_use->masks = at::detail::createCPUGenerator(seed);
  } else {
    at::Generator masks = at::globalContext().defaultGenerator(impl_->device()).clone();
    masks.set_current_seed(seed);
    impl_->adapter_use->masks = masks;
  }
}

void Decoder::set_norm_noise(const std::vector<NamedTensor>& noise, bool in_rollout, bool in_training) {
  Model& model = *impl_;
  std::map<std::string, at::Tensor*> places{{"model.norm.weight", &model.norm_noise}};
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i);
    places[prefix + ".input_layernorm.weight"] = &model.layers[i].input_noise;
    places[prefix + ".post_attention_layernorm.weight"] = &model.layers[i].post_noise;
  }
  for (const auto& [name, place] : places) *place = at::Tensor();
  for (const NamedTensor& tensor : noise) {
    const auto place = places.find(tensor.name);
    if (place == places.end()) throw std::logic_error("no norm is called " + tensor.name);
    TORCH_CHECK(tensor.tensor.numel() == model.shape.hidden && !tensor.tensor.requires_grad());
    *place->second = tensor.tensor.to(model.device());
  }
  model.noise_in_rollout = in_rollout;
  model.noise_in_training = in_training;
}

void Decoder::set_base_trainable(bool trainable) {
  if (trainable && impl_->lean) throw std::logic_error("lean weights stay frozen");
  if (trainable && impl_->has_lora) throw std::logic_error("a base with LoRA stays frozen");
  for (const NamedTensor& weight : impl_->named()) at::Tensor(weight.tensor).requires_grad_(trainable);
  impl_->base_trainable = trainable;
}

PromptCache Decoder::prefill(const Rows& prompts) {
  PromptCache cache;
  for (const auto& prompt : prompts)
    if (prompt.empty()) throw std::runtime_error("a prompt has no token");
  std::shared_ptr<const Layout> layout;
  const at::Tensor hidden = run(*impl_, prompts, layout, &cache.keys, &cache.values);
  cache.start = layout->start;
  cache.length = layout->length;
  at::Tensor ends = at::empty({static_cast<std::int64_t>(prompts.size())}, at::kLong);
  for (std::size_t i = 0; i < prompts.size(); ++i)
    ends.mutable_data_ptr<std::int64_t>()[i] = layout->start[i] + layout->length[i] - 1;
  cache.last = hidden.index_select(0, ends.to(hidden.device()));
  return cache;
}

PromptCache Decoder::prefill(const at::Tensor& ids, const at::Tensor& lengths) {
  return prefill(rows_of(unpadded(ids, lengths)));
}

at::Tensor Decoder::respond(const PromptCache& prompts, const std::vector<std::int64_t>& prompt_of_row,
                            const Rows& responses) {
  Model& model = *impl_;
  const AtenScope aten(model.aten);
  TORCH_CHECK(prompt_of_row.size() == responses.size(), "one prompt a row");
  std::vector<std::int64_t> lengths;
  const at::Tensor ids = packed_ids(model.shape, responses, lengths).to(model.device());
  for (const std::int64_t p : prompt_of_row)
    TORCH_CHECK(p >= 0 && p < static_cast<std::int64_t>(prompts.length.size()), "a row's prompt is not in the cache");
  const auto layout = Layout::behind(prompts.start, prompts.length, prompt_of_row, lengths);
  cover(model, layout->longest);
  model.refresh();
  const Positions positions = model.positions(layout->positions);
  at::Tensor x = model.embed(ids);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const Model::Queries now = model.queries(model.layers[i], x, positions);
    x = model.after_attention(
        model.layers[i], x,
        attention(now.q, now.k, now.v, prompts.keys[i], prompts.values[i], layout, model.heads));
    if (model.layer_observer) model.layer_observer(static_cast<std::int64_t>(i), x);
  }
  return model.normalize(x, model.norm, model.norm_noise);
}

at::Tensor Decoder::respond(const PromptCache& prompts, const at::Tensor& prompt_of_row, const at::Tensor& ids,
                            const at::Tensor& response_lengths) {
  const auto rows = unpadded(ids, response_lengths);
  const at::Tensor of_row = prompt_of_row.to(at::kCPU, at::kLong).contiguous();
  const auto* p = of_row.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> lengths;
  for (const auto& row : rows) lengths.push_back(static_cast<std::int64_t>(row.size()));
  return padded(respond(prompts, std::vector<std::int64_t>(p, p + of_row.numel()), rows_of(rows)), lengths, ids.size(1));
}

at::Tensor Decoder::logits(const at::Tensor& hidden) const {
  const AtenScope aten(impl_->aten);
  std::vector<std::int64_t> sizes = hidden.sizes().vec();
  const at::Tensor flat = hidden.reshape({-1, impl_->shape.hidden}).contiguous();
  sizes.back() = impl_->shape.vocabulary;
  return linear(flat, impl_->head, {}, nullptr).view(sizes);
}

ScoredTokens Decoder::score(const at::Tensor& hidden, const at::Tensor& targets, double temperature,
                            bool entropy_gradient) {
  const AtenScope aten(impl_->aten);
  const Scores scores = score_tokens(hidden, impl_->head, targets, temperature, entropy_gradient, impl_->lean);
  return {scores.logprobs, scores.entropy};
}

at::Tensor Decoder::forward(const at::Tensor& ids, const at::Tensor& lengths) {
  const auto rows = unpadded(ids, lengths);
  std::shared_ptr<const Layout> layout;
  const at::Tensor hidden = run(*impl_, rows_of(rows), layout, nullptr, nullptr);
  return padded(logits(hidden), layout->length, ids.size(1));
}

}  // namespace assay::train
