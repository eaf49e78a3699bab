// The generator behind everything synthetic: counter-based, so that problem number i is the same on every machine, in
// any order, and whatever was drawn before it.
//
// Value k of stream (seed, purpose, index) is mix(key + (k + 1) * G), where
//   key = mix(mix(mix(seed + G) + purpose * G) + index * G), G = 0x9E3779B97F4A7C15,
// and mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
// OOPSLA 2014; Stafford's variant 13). All arithmetic is modulo 2^64.
#pragma once

#include <cassert>
#include <cstdint>

namespace assay::train::tasks {

// What a stream is for. The numbers are part of the data's definition: never change or reuse them.
enum class Purpose : std::uint64_t { train_problem = 1, test_problem = 2, document = 3, batch_order = 4 };

class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, Purpose purpose, std::uint64_t index)
      : key_(mix(mix(mix(seed + kGolden) + static_cast<std::uint64_t>(purpose) * kGolden) + index * kGolden)) {}

  std::uint64_t bits() { return mix(key_ + ++counter_ * kGolden); }

  // Uniform over lo..hi, both included: the high 32 bits of a draw, scaled. The bias is below 2^-32 * (hi - lo + 1).
  std::int64_t between(std::int64_t lo, std::int64_t hi) {
    assert(lo <= hi && hi - lo < (std::int64_t{1} << 31));
    const std::uint64_t span = static_cast<std::uint64_t>(hi - lo) + 1;
    return lo + static_cast<std::int64_t>(((bits() >> 32) * span) >> 32);
  }

  // Uniform over [0, 1), a multiple of 2^-53.
  double unit() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }

  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

 private:
  static constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

}  // namespace assay::train::tasks
