#include "trainer/grpo/noise.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "experiments/spec/zones.h"
#include "trainer/grpo/seeds.h"
#include "trainer/rollout/stream.h"

namespace assay::train {

double noise_sigma(const spec::NoiseConfig& config, std::int64_t step, std::int64_t steps) {
  const std::int64_t k = config.stages, stage = std::min((step - 1) * k / steps, k - 1);
  const bool paper = config.schedule == "paper";
  if (!paper && stage == 0) return 0;
  const std::int64_t at = paper ? stage : stage - 1, last = paper ? k - 1 : k - 2;
  const double exponent = last == 0 ? 0 : static_cast<double>(at) / static_cast<double>(last);
  return config.sigma_start * std::pow(config.sigma_end / config.sigma_start, exponent);
}

std::vector<double> rin_multipliers(const spec::NoiseConfig& config, const std::vector<double>& errors) {
  if (config.rin == "zones") {
    std::string fault;
    auto multipliers = spec::zone_multipliers(config.zones, static_cast<std::int64_t>(errors.size()), fault);
    if (!fault.empty()) throw std::runtime_error(fault);
    return multipliers;
  }
  double sum = 0, measured = 0;
  for (const double e : errors) {
    sum += e;
    measured += e > 0;
  }
  const double mean = measured > 0 ? sum / measured : 0;
  std::vector<double> multipliers;
  for (const double e : errors) {
    if (e <= 0)
      multipliers.push_back(0);
    else if (config.rin == "targeted")
      multipliers.push_back(e >= (config.target_error > 0 ? config.target_error : mean) ? 1 : 0);
    else if (config.rin == "variable")
      multipliers.push_back(e / mean);
    else
      multipliers.push_back(mean / e);
  }
  if (config.rin == "ceiling" && measured > 0) {
    const double largest = *std::max_element(multipliers.begin(), multipliers.end());
    for (double& m : multipliers) m /= largest;
  }
  return multipliers;
}

std::vector<NamedTensor> NormNoise::draw(const ModelShape& shape, std::int64_t step, std::int64_t steps) const {
  std::vector<NamedTensor> noise;
  const double sigma = this->sigma(step, steps);
  if (sigma == 0) return noise;
  const std::uint64_t seed = derive_seed(seed_, static_cast<std::uint64_t>(step), Purpose::noise);
  // A norm's stream is its place in the model, so its noise does not depend on which others have some.
  const auto add = [&](const std::string& target, const std::string& name, std::int64_t place, double multiplier) {
    if (multiplier == 0 || std::find(config_.targets.begin(), config_.targets.end(), target) == config_.targets.end()) return;
    at::Tensor values = at::empty({shape.hidden}, at::kFloat);
    auto* to = values.mutable_data_ptr<float>();
    for (std::int64_t j = 0; j < shape.hidden; ++j)
      to[j] = static_cast<float>(multiplier * sigma *
                                 normal(seed, static_cast<std::uint64_t>(place), static_cast<std::uint64_t>(j)));
    noise.push_back({name, values});
  };
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    const double multiplier = multipliers_.empty() ? 1.0 : multipliers_.at(static_cast<std::size_t>(i));
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    add("input_layernorm", prefix + "input_layernorm.weight", 2 * i, multiplier);
    add("post_attention_layernorm", prefix + "post_attention_layernorm.weight", 2 * i + 1, multiplier);
  }
  add("norm", "model.norm.weight", 2 * shape.layers, 1.0);
  return noise;
}

void NormNoise::begin_step(Decoder& decoder, std::int64_t step, std::int64_t steps) const {
  decoder.set_norm_noise(draw(decoder.shape(), step, steps), config_.apply_during != "training",
                         config_.apply_during != "rollout");
}

}  // namespace assay::train
