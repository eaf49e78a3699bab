// The random Hadamard transform against its matrix, its inverse, and what it is for.
#include "catch.h"
#include "data.h"
#include "quant/hadamard.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

std::vector<float> transformed(const std::vector<float>& x, std::int64_t cols, std::uint16_t signs, bool inverse = false) {
  std::vector<float> y(x.size());
  const auto rows = static_cast<std::int64_t>(x.size()) / cols;
  (inverse ? inverse_hadamard16 : hadamard16)(x.data(), y.data(), rows, cols, signs);
  return y;
}

}  // namespace

TEST_CASE("the transform is H D / 4, of each 16 elements along a row") {
  const auto x = normal(3 * 48, 61);
  for (const std::uint16_t signs : {std::uint16_t{0}, std::uint16_t{0x8001}, hadamard_signs(7)}) {
    const auto y = transformed(x, 48, signs);
    for (std::size_t b = 0; b < x.size(); b += 16) {
      for (std::size_t i = 0; i < 16; ++i) {
        double sum = 0;
        for (std::size_t j = 0; j < 16; ++j) {
          const int negative = (signs >> j & 1) ^ (std::popcount(i & j) & 1);
          sum += negative ? -double(x[b + j]) : double(x[b + j]);
        }
        CHECK(y[b + i] == Approx(sum / 4).margin(1e-6));
      }
    }
  }
}

TEST_CASE("the inverse gives x back, and small integers exactly; in place too") {
  const std::uint16_t signs = hadamard_signs(8);
  const auto x = normal(64 * 64, 62);
  const auto back = transformed(transformed(x, 64, signs), 64, signs, true);
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(back[i] == Approx(x[i]).margin(2e-6));
  std::vector<float> whole;
  for (int i = 0; i < 1024; ++i) whole.push_back(float(i * 37 % 201 - 100));
  CHECK(transformed(transformed(whole, 32, signs), 32, signs, true) == whole);
  auto in_place = x;
  hadamard16(in_place.data(), in_place.data(), 64, 64, signs);
  CHECK(same_bits(in_place, transformed(x, 64, signs)));
  CHECK(transformed({}, 16, signs).empty());
}

TEST_CASE("products over K keep their value when both operands are transformed with the same signs") {
  const std::int64_t k = 256;
  const auto a = normal(k, 63), b = normal(k, 64);
  const auto product = [](const std::vector<float>& p, const std::vector<float>& q) {
    double sum = 0;
    for (std::size_t i = 0; i < p.size(); ++i) sum += double(p[i]) * q[i];
    return sum;
  };
  const std::uint16_t signs = hadamard_signs(9);
  CHECK(product(transformed(a, k, signs), transformed(b, k, signs)) == Approx(product(a, b)).margin(1e-4));
  CHECK(product(transformed(a, k, signs), transformed(b, k, 0)) != Approx(product(a, b)).margin(1e-1));
}

TEST_CASE("an outlier hurts its block less behind the transform") {
  auto x = normal(256 * 256, 65);
  for (std::size_t i = 0; i < x.size(); i += 16) x[i] *= 50;
  const std::uint16_t signs = hadamard_signs(10);
  const auto small_error = [&](bool rotate) {
    auto q = rotate ? transformed(x, 256, signs) : x;
    fake_quantize({}, q.data(), q.data(), 256, 256, 1);
    if (rotate) q = transformed(q, 256, signs, true);
    double error = 0, power = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      error += (double(q[i]) - x[i]) * (double(q[i]) - x[i]);
      power += double(x[i]) * x[i];
    }
    return error / power;
  };
  // A lone large value is one code of its block, and exact: what the transform saves are the small ones beside it.
  double dead = 0, dead_rotated = 0;
  const auto plain = run({}, x, 256, 256);
  auto rotated = transformed(x, 256, signs);
  fake_quantize({}, rotated.data(), rotated.data(), 256, 256, 1);
  for (float v : plain) dead += v == 0;
  for (float v : rotated) dead_rotated += v == 0;
  CHECK(dead > 3 * dead_rotated);
  CHECK(small_error(true) < 0.05);
}

TEST_CASE("signs follow from the seed, and are about half of them negative") {
  CHECK(hadamard_signs(1) == hadamard_signs(1));
  int negative = 0, different = 0;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    negative += std::popcount(hadamard_signs(seed));
    different += hadamard_signs(seed) != hadamard_signs(seed + 1);
  }
  CHECK(std::abs(negative - 8000) < 5 * 63);
  CHECK(different > 990);
}
