// Noise on the weights of RMS norms: adaptive quantization noise (AQN, QeRL 2510.11696) and its form with a strength for
// each layer (RIN), the latter from an SRDD scan.
//
// In step s a norm's weight w is w + m_l * sigma(s) * z in the phases that noise.apply_during names, z ~ N(0, 1) for each
// of its elements, m_l the multiplier of its layer (1 with AQN and for the final norm). The weights are never written to:
// the noise stands beside them and is added where a pass uses them, so nothing adds up and an evaluation never sees it.
// Everything is a pure function of the config and (seed, step): there is no state, and a resumed run goes on with the same
// noise. Rollout and training of one step have the same.
#pragma once

#include <cstdint>
#include <vector>

#include "experiments/spec/config.h"
#include "trainer/grpo/scan.h"
#include "trainer/model/decoder.h"

namespace assay::train {

// The strength in step `step` (1-based) of `steps`. The steps are split into K = noise.stages; step s is in stage
// floor((s - 1) K / steps), from 0. With r = sigma_end / sigma_start:
//   stages: 0 in stage 0, then sigma_start * r^((stage - 1) / (K - 2)), QeRL's code;
//   paper:  sigma_start * r^(stage / (K - 1)).
// An exponent with a divisor of 0 (K = 2 with `stages`) is 0.
double noise_sigma(const spec::NoiseConfig& config, std::int64_t step, std::int64_t steps);

// m_l from the layers' relative errors e_l; a layer without a quantized activation has error 0 here, multiplier 0, and no
// part in the mean.
//   targeted: 1 where e_l >= target_error (0: the mean), else 0;  variable: e_l / mean;  inverse: mean / e_l;
//   ceiling: inverse, divided by the largest inverse;  zones: what noise.zones says, whatever the errors.
// Throws std::runtime_error for zones that do not fit `errors.size()` layers.
std::vector<double> rin_multipliers(const spec::NoiseConfig& config, const std::vector<double>& errors);

class NormNoise {
 public:
  // `multipliers`: one a layer; empty: 1 for each (AQN).
  NormNoise(const spec::NoiseConfig& config, std::uint64_t seed, std::vector<double> multipliers)
      : config_(config), seed_(seed), multipliers_(std::move(multipliers)) {}

  double sigma(std::int64_t step, std::int64_t steps) const { return noise_sigma(config_, step, steps); }
  // The noise of a step, under the norms' names; empty where sigma is 0.
  std::vector<NamedTensor> draw(const ModelShape& shape, std::int64_t step, std::int64_t steps) const;
  // Gives it to the decoder, in place of the former step's.
  void begin_step(Decoder& decoder, std::int64_t step, std::int64_t steps) const;
  const std::vector<double>& multipliers() const { return multipliers_; }

 private:
  spec::NoiseConfig config_;
  std::uint64_t seed_;
  std::vector<double> multipliers_;
};

}  // namespace assay::train
