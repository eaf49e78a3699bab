// Quantizers by rule: which modules, what of them, and when.
#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "experiments/spec/canonical.h"
#include "experiments/spec/modules.h"
#include "quant/hadamard.h"
#include "quant/torch/fake_quantize.h"
#include "support/suggest.h"
#include "trainer/model/model.h"

namespace assay::train {

namespace {

// The exclude list of a config, as the series reader understands it, held against the modules that there are.
class Exclusion {
 public:
  Exclusion(const std::vector<std::string>& entries, const std::vector<std::string>& known) {
    for (const std::string& entry : entries) {
      patterns_.emplace_back(entry);
      const bool exact = !entry.starts_with('^');
      if (exact && std::find(known.begin(), known.end(), entry) == known.end())
        throw std::runtime_error("quant.exclude: no module is called '" + entry + "'" +
                                 support::did_you_mean(entry, known));
    }
  }
  bool holds(const std::string& name) const {
    return std::any_of(patterns_.begin(), patterns_.end(),
                       [&](const spec::ModulePattern& pattern) { return pattern.matches(name); });
  }

 private:
  std::vector<spec::ModulePattern> patterns_;
};

quant::Spec spec_of(const spec::QuantConfig& config) {
  const auto non_finite = quant::parse_non_finite(config.non_finite);
  if (!non_finite) throw std::runtime_error("quant.non_finite: there is no policy '" + config.non_finite + "'");
  const auto format = quant::parse_format(config.format);
  if (!format) throw std::runtime_error("quant.format: there is no format '" + config.format + "'");
  const auto mode = quant::parse_mode(*format, config.mode);
  if (!mode) throw std::runtime_error("quant.mode: " + config.format + " has no mode '" + config.mode + "'");
  quant::Spec spec;
  spec.format = *format;
  spec.mode = *mode;
  spec.non_finite = *non_finite;
  if (config.rounding == "stochastic") spec.rounding = quant::Rounding::stochastic;
  return spec;
}

// The series reader refuses these with the place in the file; a config.json by hand comes here.
void check(const char* key, std::string_view wrong) {
  if (!wrong.empty()) throw std::runtime_error(std::string(key) + ": " + std::string(wrong));
}

void check_rotated(const Projection& p, std::int64_t size, const char* what) {
  if (size % 16 != 0)
    throw std::runtime_error("quant.hadamard turns 16 elements at a time, and " + p.name + " has " + std::to_string(size) + " " +
                             what + "; leave it out with quant.exclude, or set quant.hadamard to false");
}

struct Default {
  at::Tensor operator()(const at::Tensor& x, const quant::Spec& spec, bool ste) const {
    return ste ? quant::fake_quantize_ste(x, spec, 1) : quant::fake_quantize(x, spec, 1);
  }
};

std::string last_word(const std::string& name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

ActivationQuantizer default_activation_quantizer() { return Default{}; }
bool is_default(const ActivationQuantizer& quantizer) { return quantizer.target<Default>() != nullptr; }

AttachReport attach_by_rule(Model& model, const spec::QuantConfig& config, ActivationQuantizer quantizer,
                            std::uint64_t seed) {
  if (model.has_quantizers) throw std::logic_error("quantizers are attached once");
  AttachReport report;
  report.label = spec::quant_label(config);
  if (config.format == "none") {
    if (model.lean && !model.aten)
      for (Layer& layer : model.layers)
        for (Projection* p : layer.projections()) p->weight.keep_forward_only();
    return report;
  }
  if (model.base_trainable) throw std::logic_error("the weights are quantized once: the base must be frozen");

  const bool weights = config.injection_point != "activation", activations = config.injection_point != "weight";
  Quantizers& q = model.quantizers;
  q.weight = q.activation = spec_of(config);
  if (config.tensor_scale == "row") q.activation.scope = quant::Scope::row;
  q.restart(seed);
  q.weight.tiles = config.blocking == "2d";
  if (config.hadamard) q.signs = quant::hadamard_signs(seed);
  if (config.backward == "fp4") {
    quant::Spec gradient = spec_of(config);
    gradient.rounding = quant::Rounding::stochastic;
    q.gradient = quant::GradientSpec{gradient, true};
    check("quant.backward", objection(*q.gradient));
  }
  q.ste = config.ste;
  q.post = config.hook == "post";
  q.in_training = config.apply_during != "rollout";
  q.in_rollout = config.apply_during != "training";
  q.quantize = std::move(quantizer);

  // base_layer names count as known without LoRA too, so that one config serves a run and the evaluation of its base.
  std::vector<std::string> known;
  for (Layer& layer : model.layers)
    for (const Projection* p : layer.projections()) {
      known.push_back(p->name);
      known.push_back(p->name + ".base_layer");
    }
  const Exclusion excluded(config.exclude, known);
  q.weight_axis = config.blocking == "column" ? 0 : 1;
  if (weights) check("quant.blocking", objection(q.weight, q.weight_axis));
  if (activations) check("quant.rounding", objection(q.activation, 1));
  std::uint64_t weight_seed = seed;
  const at::NoGradGuard no_grad;
  const auto layers = static_cast<std::int64_t>(model.layers.size());
  for (std::int64_t i = config.skip_first_layers; i < layers - config.skip_last_layers; ++i) {
    for (Projection* p : model.layers[static_cast<std::size_t>(i)].projections()) {
      if (std::find(config.targets.begin(), config.targets.end(), last_word(p->name)) == config.targets.end()) continue;
      const bool wrapper = !excluded.holds(p->name);
      const bool base = p->lora && !excluded.holds(p->name + ".base_layer");
      if (!wrapper && !base) continue;
      if (q.signs && (weights || !q.post)) check_rotated(*p, p->weight.in(), "in_features");
      if (q.signs && activations && q.post) check_rotated(*p, p->weight.out(), "out_features");
      double sqnr = 0;
      p->weight_seed = ++weight_seed;
      if (weights) {  // the wrapper's weight is its base layer's: there is one, quantized once
        quant::ErrorStats stats;
        p->quantized = Matrix(quantized_weight(p->weight.value(), q, p->weight_seed, &stats));
        sqnr = stats.sqnr_db();
        if (multiplies_codes(q, weights, activations)) {
          if (model.aten) p->exact = exact_weight(p->weight.value(), q, p->weight_seed);
          else if (!model.base_trainable && !(p->lora && Merged::pays(p->weight, p->lora->a, p->lora->b)))
            p->coded = code_weight(p->weight.value(), p->quantized.value(), q.weight);
        }
        if (model.lean) {  // here and not behind the loop: the most that is alive at once is what counts
          if (!model.aten) p->quantized.keep_forward_only();
          if (!model.keep_unquantized) p->weight = Matrix();
        }
      }
      p->on_wrapper = wrapper && activations;
      p->on_base = base && activations;
      if (p->on_wrapper && p->on_base) report.twice.push_back(p->name);
      ++report.projections;
      for (const char* suffix : {"", ".base_layer"}) {
        if (!(*suffix ? base : wrapper)) continue;
        report.modules.push_back({p->name + suffix, p->name, weights, activations, config.hook, config.blocking, sqnr});
      }
    }
  }
  if (report.modules.empty()) {
    std::string targets;
    for (const std::string& target : config.targets) targets += (targets.empty() ? "" : ", ") + target;
    throw std::runtime_error("quant: no module is left to quantize: targets [" + targets + "] less quant.exclude and the skipped layers match "
                             "none; modules are called " + known.front() + (model.has_lora ? ", " + known[1] : "") +
                             " … " + known[known.size() - 2]);
  }
  if (model.lean && !model.aten)  // LibTorch's products read a weight as it lies: there is one form already
    for (Layer& layer : model.layers)
      for (Projection* p : layer.projections())
        if (p->weight.defined()) p->weight.keep_forward_only();
  model.has_quantizers = true;
  return report;
}

}  // namespace assay::train
