// Where every random number of a run comes from: one seed, and a documented function of (seed, index, purpose).
//
//   derive_seed(seed, index, purpose) = mix(mix(mix(seed) + index) + purpose),  mix = SplitMix64's output function
//
// so that step 7's samples do not depend on how many numbers step 6 drew. `index` is the step, or what the purpose says.
#pragma once

#include <cstdint>

namespace assay::train {

enum class Purpose : std::uint64_t {
  lora = 1,      // A of the adapters; index 0
  data = 2,      // order of the training problems; index = epoch
  rollout = 3,   // sampling; index = step * 2^20 + generation batch of that step
  doctor = 4,    // the preflight's random B; index 0
  dropout = 5,   // of the adapters' inputs; index = step * 2^20 + first prompt of the micro-batch
  noise = 6,     // on the norms' weights; index = step
  quantizer = 7, // signs of the Hadamard transform, rounding of weights; index 0
  rounding = 8,  // of activations and gradients in an update; index as dropout's
  sampled = 9,   // of activations in sampling; index as rollout's, 0 in evaluations
};

constexpr std::uint64_t mix_seed(std::uint64_t x) {  // SplitMix64 (Steele, Lea, Flood 2014)
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr std::uint64_t derive_seed(std::uint64_t seed, std::uint64_t index, Purpose purpose) {
  return mix_seed(mix_seed(mix_seed(seed) + index) + static_cast<std::uint64_t>(purpose));
}

}  // namespace assay::train
