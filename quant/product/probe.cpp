#include "quant/product/probe.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/product/fp4_layout.h"

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

double known_fp4_sum(const MultiplyFp4& multiply) {
  constexpr std::int64_t rows = 31, blocks = rows + 1, k = 16 * blocks, n = 32;
  constexpr std::uint8_t one = 0x38, least = 0x01;     // E4M3: 1 and 2^-9
  constexpr std::uint8_t half = 1, two = 4, four = 6;  // E2M1
  const Fp4Layout of_a{rows, k}, of_b{n, k};
  std::vector<std::uint8_t> a(static_cast<std::size_t>(of_a.bytes())), b(static_cast<std::size_t>(of_b.bytes()));
  const auto put = [](std::vector<std::uint8_t>& to, const Fp4Layout& layout, std::int64_t row, std::int64_t block,
                      std::uint8_t code, std::uint8_t scale) {  // a block's first element
    to[static_cast<std::size_t>(row * layout.code_stride() + block * 8)] = code;
    to[static_cast<std::size_t>(layout.code_bytes() + layout.scale_at(row, block))] = scale;
  };
  for (std::int64_t j = 0; j < rows; ++j) {
    put(a, of_a, j, 0, four, one);
    put(a, of_a, j, j + 1, half, least);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    put(b, of_b, i, 0, two, one);
    for (std::int64_t block = 1; block < blocks; ++block) put(b, of_b, i, block, half, least);
  }
  std::vector<float> y(static_cast<std::size_t>(rows * n));
  multiply(a.data(), b.data(), rows, k, n, y.data());
  double most = 0;
  for (const float v : y) {
    const double error = std::fabs(v - (8 + 0x1p-20)) / 8;
    most = error <= most ? most : error;  // NaN wins
  }
  return most;
}

}  // namespace assay::quant::product
