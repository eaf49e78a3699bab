// What ranks sum up in tests, and the sum's bits.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace assay::test {

// Of rank r, n values of many sizes and signs: their sum depends on the order, and on what it is added in.
inline at::Tensor values_of(int r, std::int64_t n) {
  at::Tensor values = at::empty({n}, at::kFloat);
  auto* to = values.mutable_data_ptr<float>();
  std::uint64_t state = static_cast<std::uint64_t>(r) * 1000003 + 17;
  for (std::int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    to[i] = std::ldexp(static_cast<float>(static_cast<std::int64_t>(state >> 40)) - 8388608.0f, static_cast<int>(state >> 36 & 15) - 30);
  }
  if (n > 3) to[3] = r % 2 == 0 ? -0.0f : std::numeric_limits<float>::denorm_min();
  return values;
}

inline std::vector<float> expected(int ranks, std::int64_t n) {
  std::vector<double> sum(static_cast<std::size_t>(n), 0.0);
  for (int r = 0; r < ranks; ++r) {
    const at::Tensor values = values_of(r, n);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values.const_data_ptr<float>()[i];
  }
  return {sum.begin(), sum.end()};
}

}  // namespace assay::test
