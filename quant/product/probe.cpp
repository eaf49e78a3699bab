#include "quant/product/probe.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace assay::quant::product {
namespace {

double worst(const Multiply& multiply, const std::vector<float>& a, const std::vector<float>& b, std::int64_t m,
             std::int64_t k, std::int64_t n, double sum) {
  std::vector<float> y(static_cast<std::size_t>(m * n));
  multiply(a.data(), b.data(), m, k, n, y.data());
  double most = 0;
  for (const float v : y) {
    const double error = std::fabs(v - sum) / sum;
    most = error <= most ? most : error;  // NaN wins
  }
  return most;
}

}  // namespace

double known_sums(const Multiply& multiply) {
  // Row j has a large product at 0 and a small one at j + 1, at every distance that a kernel's lanes and steps have.
  constexpr std::int64_t k = 512, rows = k - 2, n = 48;
  const auto at = [](std::int64_t row, std::int64_t col) { return static_cast<std::size_t>(row * k + col); };
  std::vector<float> last_bit(rows * k), cancelling(rows * k), b(k * n, 0x1p-11f), ones(k * n, 1.0f);
  std::fill_n(b.begin(), n, 1.0f);
  for (std::int64_t j = 0; j < rows; ++j) {
    last_bit[at(j, 0)] = 1;
    last_bit[at(j, j + 1)] = 0x1p-12f;
    cancelling[at(j, 0)] = 0x1p23f;
    cancelling[at(j, j + 1)] = 1;
    cancelling[at(j, k - 1)] = -0x1p23f;
  }
  double most = worst(multiply, last_bit, b, rows, k, n, 1 + 0x1p-23);
  most = std::max(most, worst(multiply, cancelling, ones, rows, k, n, 1));
  // Long, for few rows: 4096 times 63 * 63 stays below 2^24.
  constexpr std::int64_t length = 4096, few = 3;
  const std::vector<float> large(length * few, 63.0f);
  return std::max(most, worst(multiply, large, large, few, length, few, 63.0 * 63 * length));
}

}  // namespace assay::quant::product
