// The projections of a decoder and their module names: what the counts of Derived and the quantizer's attach rule share.
//
// Each decoder layer N has seven projections, model.layers.N.self_attn.{q,k,v,o}_proj and
// model.layers.N.mlp.{gate,up,down}_proj. A projection with an adapter is two modules, the wrapper under the
// projection's name and the wrapped linear layer under NAME.base_layer (PEFT's names); one without is one module.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "experiments/spec/config.h"

namespace assay::spec {

// One entry of quant.exclude: an exact module name, or an anchored pattern ^…$ (PCRE2) over the full module name.
class ModulePattern {
 public:
  // Why an entry cannot be used; empty: it can.
  static std::string fault(const std::string& entry);
  explicit ModulePattern(const std::string& entry);  // throws std::runtime_error with fault()
  bool matches(const std::string& module) const;

 private:
  std::string exact_;           // empty: a pattern
  std::shared_ptr<void> code_;  // compiled
};

// model.layers.LAYER.self_attn.q_proj and so on. `projection` is one of the seven.
std::string module_name(std::int64_t layer, const std::string& projection);

struct QuantizedModule {
  std::string name, projection;  // equal unless name ends in .base_layer
};
// In model order (layer, q k v o gate up down, wrapper before base_layer): the modules a quantizer is attached to.
// Empty for quant.format "none".
std::vector<QuantizedModule> quantized_modules(const QuantConfig& quant, const LoraConfig& lora, std::int64_t layers);

// Entries of quant.exclude that match no module of the model at all (quantized or not): slips of the pen.
std::vector<std::string> idle_exclusions(const QuantConfig& quant, const LoraConfig& lora, std::int64_t layers);

}  // namespace assay::spec
