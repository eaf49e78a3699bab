// Loading a Hugging Face folder's weights, and making fresh ones.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <cstdlib>
#include <new>
#include <set>
#include <stdexcept>

#include "support/model_folder.h"
#include "trainer/model/model.h"
#include "trainer/model/tensor_file.h"

namespace assay::train {

std::string projection_name(std::int64_t layer, const std::string& projection) {
  const bool mlp = projection == "gate_proj" || projection == "up_proj" || projection == "down_proj";
  return "model.layers." + std::to_string(layer) + (mlp ? ".mlp." : ".self_attn.") + projection;
}

namespace {

// LibTorch asks glibc for aligned blocks, and glibc 2.36 looks for one larger than asked for, to cut the aligned part from
// it: the block that was freed a moment ago, of just the size, is passed over, and the heap grows to twice what is in
// use. Here a plain block is taken and the alignment made within it, so it is found again.
struct Blocks final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, c10::Device(c10::kCPU)};
    void* block = std::malloc(bytes + c10::gAlignment);
    if (block == nullptr) throw std::bad_alloc();
    const auto at = (reinterpret_cast<std::uintptr_t>(block) + c10::gAlignment - 1) & ~(c10::gAlignment - 1);
    return {reinterpret_cast<void*>(at), block, &std::free, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// A step takes and frees the same hundred megabytes again and again. glibc would hand every large block back to the
// kernel and have its pages cleared anew: a twentieth of a step.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  static Blocks blocks;
  c10::SetCPUAllocator(&blocks);
#endif
}

}  // namespace

Model empty_model(const ModelShape& shape) {
  keep_freed_memory();
  Model model;
  model.shape = shape;
  model.heads = {shape.heads, shape.kv_heads, shape.head_size};
  model.rope = Rope(shape.head_size, shape.rope_theta, shape.rope);
  const auto options = at::TensorOptions(at::kFloat);
  const std::int64_t d = shape.hidden, f = shape.intermediate;
  const std::int64_t qw = model.heads.query_width(), kw = model.heads.key_width();
  model.embedding = at::empty({shape.vocabulary, d}, options);
  model.norm = at::empty({d}, options);
  model.head = Matrix(shape.tied ? model.embedding : at::empty({shape.vocabulary, d}, options));
  model.layers.resize(static_cast<std::size_t>(shape.layers));
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    Layer& layer = model.layers[static_cast<std::size_t>(i)];
    layer.input_norm = at::empty({d}, options);
    layer.post_norm = at::empty({d}, options);
    if (shape.qk_norm) {
      layer.q_norm = at::empty({shape.head_size}, options);
      layer.k_norm = at::empty({shape.head_size}, options);
    }
    const auto make = [&](Projection& p, const char* name, std::int64_t out, std::int64_t in, bool bias) {
      p.name = projection_name(i, name);
      p.weight = Matrix(at::empty({out, in}, options));
      if (bias) p.bias = at::empty({out}, options);
    };
    make(layer.q, "q_proj", qw, d, shape.qkv_bias);
    make(layer.k, "k_proj", kw, d, shape.qkv_bias);
    make(layer.v, "v_proj", kw, d, shape.qkv_bias);
    make(layer.o, "o_proj", d, qw, shape.o_bias);
    make(layer.gate, "gate_proj", f, d, shape.mlp_bias);
    make(layer.up, "up_proj", f, d, shape.mlp_bias);
    make(layer.down, "down_proj", d, f, shape.mlp_bias);
  }
  return model;
}

std::vector<NamedTensor> Model::named() const {
  std::vector<NamedTensor> all{{"model.embed_tokens.weight", embedding}};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const std::string prefix = "model.layers." + std::to_string(i);
    all.push_back({prefix + ".input_layernorm.weight", layer.input_norm});
    all.push_back({prefix + ".post_attention_layernorm.weight", layer.post_norm});
    if (layer.q_norm.defined()) {
      all.push_back({prefix + ".self_attn.q_norm.weight", layer.q_norm});
      all.push_back({prefix + ".self_attn.k_norm.weight", layer.k_norm});
    }
    for (const Projection* p :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (p->weight.value().defined()) all.push_back({p->name + ".weight", p->weight.value()});
      if (p->bias.defined()) all.push_back({p->name + ".bias", p->bias});
    }
  }
  all.push_back({"model.norm.weight", norm});
  if (!shape.tied) all.push_back({"lm_head.weight", head.value()});
  return all;
}

namespace {

void fill(const NamedTensor& to, const support::TensorView& from, const std::string& where) {
  const std::vector<std::int64_t> wanted = to.tensor.sizes().vec();
  if (from.shape != wanted)
    throw std::runtime_error(where + ": " + to.name + " has shape " + shape_text(from.shape) + ", config.json asks for " +
                             shape_text(wanted));
  to.tensor.copy_(read_tensor(from, where, to.name));
  if (!at::isfinite(to.tensor).all().item<bool>())
    throw std::runtime_error(where + ": " + to.name + " holds NaN or infinite values; fetch or convert the checkpoint again");
}

}  // namespace

Decoder Decoder::load(const std::filesystem::path& folder) {
  const at::NoGradGuard no_grad;
  auto impl = std::make_unique<Impl>();
  static_cast<Model&>(*impl) = empty_model(ModelShape::read(folder));
  const support::ModelFolder checkpoint = support::ModelFolder::open(folder);
  std::set<std::string> known;
  for (const NamedTensor& weight : impl->named()) {
    const support::TensorView* view = checkpoint.find(weight.name);
    if (!view) throw std::runtime_error(folder.string() + ": there is no tensor " + weight.name);
    fill(weight, *view, folder.string());
    known.insert(weight.name);
  }
  for (const std::string& name : checkpoint.names()) {
    const bool harmless = name.ends_with(".rotary_emb.inv_freq") || (impl->shape.tied && name == "lm_head.weight");
    if (!known.contains(name) && !harmless)
      throw std::runtime_error(folder.string() + ": tensor " + name + " is not part of a " + impl->shape.family +
                               " model of this shape");
  }
  return Decoder(std::move(impl));
}

Decoder Decoder::fresh(const ModelShape& shape, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  auto impl = std::make_unique<Impl>();
  static_cast<Model&>(*impl) = empty_model(shape);
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const NamedTensor& weight : impl->named()) {
    at::Tensor to = weight.tensor;
    if (weight.name.ends_with("norm.weight"))
      to.fill_(1.0);
    else if (weight.name.ends_with(".bias"))
      to.zero_();
    else
      to.normal_(0.0, 0.02, generator);
  }
  return Decoder(std::move(impl));
}

}  // namespace assay::train
