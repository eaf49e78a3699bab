// LoRA with PEFT's names and PEFT's initial values.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "support/suggest.h"
#include "trainer/model/model.h"

namespace assay::train {

void attach_adapter(Model& model, const spec::LoraConfig& lora, std::uint64_t seed) {
  if (model.has_lora || model.has_quantizers)
    throw std::logic_error("LoRA is attached once, and before the quantizers: they name its modules");
  static const std::vector<std::string> words = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                 "gate_proj", "up_proj", "down_proj"};
  if (lora.targets.empty()) throw std::runtime_error("lora.targets is empty: there would be nothing to train");
  for (const std::string& target : lora.targets)
    if (std::find(words.begin(), words.end(), target) == words.end())
      throw std::runtime_error("lora.targets: no module is called '" + target + "'" +
                               support::did_you_mean(target, words) + " (there are q_proj, k_proj, v_proj, o_proj, "
                               "gate_proj, up_proj, down_proj)");
  const at::NoGradGuard no_grad;
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  model.adapter_use = std::make_shared<AdapterUse>();
  for (const NamedTensor& weight : model.named()) at::Tensor(weight.tensor).requires_grad_(false);
  model.base_trainable = false;
  for (Layer& layer : model.layers) {
    for (Projection* p : layer.projections()) {
      const std::string word = p->name.substr(p->name.rfind('.') + 1);
      if (std::find(lora.targets.begin(), lora.targets.end(), word) == lora.targets.end()) continue;
      // kaiming_uniform_(a = sqrt 5): the bound is sqrt(6 / ((1 + 5) * in)) = 1 / sqrt(in).
      const double bound = 1.0 / std::sqrt(static_cast<double>(p->weight.in()));
      at::Tensor a = at::empty({lora.rank, p->weight.in()}, at::kFloat);
      if (lora.init == "gaussian")
        a.normal_(0.0, 1.0 / static_cast<double>(lora.rank), generator);
      else
        a.uniform_(-bound, bound, generator);
      at::Tensor b = at::zeros({p->weight.out(), lora.rank}, at::kFloat);
      a.requires_grad_(true);
      b.requires_grad_(true);
      p->use = model.adapter_use;
      p->lora = std::make_unique<LoraPair>();
      p->lora->a = Matrix(a);
      p->lora->b = Matrix(b);
      p->lora->scale = static_cast<float>(lora.alpha / static_cast<double>(lora.rank));
    }
  }
  model.has_lora = true;
}

}  // namespace assay::train
