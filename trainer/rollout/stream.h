// The random numbers of sampling: a counter-based generator, so that number t of row i is a pure function of
// (seed, i, t). Philox4x32-10: J. K. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace assay::train {

inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0], b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Number t of the stream (seed, row), in [0, 1): 53 random bits.
inline double uniform(std::uint64_t seed, std::uint64_t row, std::uint64_t t) {
  const auto x = philox({static_cast<std::uint32_t>(t), static_cast<std::uint32_t>(t >> 32),
                         static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32)},
                        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const std::uint64_t bits = (std::uint64_t{x[0]} << 32 | x[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

// The same, from N(0, 1) by Box and Muller's transform.
inline double normal(std::uint64_t seed, std::uint64_t row, std::uint64_t t) {
  const auto x = philox({static_cast<std::uint32_t>(t), static_cast<std::uint32_t>(t >> 32),
                         static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32)},
                        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const double u = static_cast<double>(((std::uint64_t{x[0]} << 32 | x[1]) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double v = static_cast<double>((std::uint64_t{x[2]} << 32 | x[3]) >> 11) * 0x1p-53;
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

}  // namespace assay::train
