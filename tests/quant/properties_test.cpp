// What every mode does by construction, and the error it makes on normal data.
#include <algorithm>
#include <numeric>

#include "catch.h"
#include "data.h"

using namespace assay::quant;
using namespace assay::quant::test;

TEST_CASE("idempotence: floor and torchao_one_level always; te to a few ulps while its scales are normal numbers") {
  for (const Named& named : all_specs()) {
    for (int kind = 0; kind < 3; ++kind) {
      const auto x = kind == 0 ? normal(64 * 256, 21) : kind == 1 ? any_bits(64 * 256, 22) : nasty(64 * 256, 23);
      const auto once = run(named.spec, x, 64, 256), twice = run(named.spec, once, 64, 256);
      CAPTURE(named.name, kind);
      if (named.spec.mode != Mode::te) {
        CHECK(same_bits(twice, once));
      } else if (kind == 0) {
        // fl(1/2688) makes the tensor's maximum move by an ulp; a subnormal scale may even turn into 0 the second time.
        for (std::size_t i = 0; i < x.size(); ++i) CHECK(twice[i] == Approx(once[i]).epsilon(5e-7));
      }
    }
  }
}

TEST_CASE("sign symmetry: quantizing -x gives the negative, bit for bit") {
  for (const Named& named : all_specs()) {
    for (const auto& x : {normal(64 * 100, 24), any_bits(64 * 100, 25), nasty(64 * 100, 26)}) {
      auto mirrored = x;
      for (float& v : mirrored) v = -v;
      auto out = run(named.spec, mirrored, 64, 100);
      for (float& v : out) v = -v;
      CAPTURE(named.name);
      CHECK(same_bits(out, run(named.spec, x, 64, 100)));
    }
  }
}

TEST_CASE("scaling by a power of two scales the result, as long as nothing leaves its range") {
  for (const Named& named : all_specs()) {
    const auto x = normal(64 * 96, 27);
    const auto plain = run(named.spec, x, 64, 96);
    const bool one_level = named.spec.mode == Mode::torchao_one_level;
    for (const int k : {-40, -2, 1, 7, 40}) {
      auto scaled = x;
      for (float& v : scaled) v = std::ldexp(v, k);
      auto out = run(named.spec, scaled, 64, 96);
      for (float& v : out) v = std::ldexp(v, -k);
      CAPTURE(named.name, k);
      // Without an fp32 scale above it, an E4M3 scale reaches from 2^-6 to 448 and no further.
      CHECK(same_bits(out, plain) == (!one_level || std::abs(k) < 40));
    }
  }
}

TEST_CASE("order within a block is kept, and a block takes at most 15 values") {
  for (const Named& named : all_specs()) {
    const int b = named.spec.block();
    for (const auto& x : {normal(64 * b, 28), nasty(64 * b, 29)}) {
      const auto out = run(named.spec, x, 1, 64 * b);
      int disorder = 0;
      for (int first = 0; first < 64 * b; first += b) {
        std::vector<std::size_t> order(static_cast<std::size_t>(b));
        std::iota(order.begin(), order.end(), static_cast<std::size_t>(first));
        std::sort(order.begin(), order.end(), [&](auto i, auto j) { return x[i] < x[j]; });
        int values = 1;
        for (std::size_t i = 1; i < order.size(); ++i) {
          disorder += out[order[i - 1]] > out[order[i]];
          values += out[order[i - 1]] < out[order[i]];
        }
        CHECK(values <= 15);
      }
      CAPTURE(named.name);
      CHECK(disorder == 0);
    }
  }
}

namespace {

struct Error {
  double relative_abs, relative_rms, sqnr_db, damped;
};

// n normal elements of deviation sigma in rows of 1024. damped: mean of err / (|x| + sigma / 100).
Error measure(const Spec& spec, double sigma, std::int64_t n, std::uint32_t seed) {
  const auto x = normal(n, seed, static_cast<float>(sigma));
  std::vector<float> out(x.size());
  ErrorStats stats;
  fake_quantize(spec, x.data(), out.data(), n / 1024, 1024, 1, &stats);
  double damped = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    damped += std::fabs(double(out[i]) - x[i]) / (std::fabs(double(x[i])) + sigma / 100);
  }
  return {stats.relative_abs(), stats.relative_rms(), stats.sqnr_db(), damped / double(n)};
}

// Averages over an octave of sigma in 16 steps: MXFP4's error depends on where sigma lies between powers of two.
Error over_an_octave(const Spec& spec, std::int64_t n) {
  Error sum{};
  for (std::uint32_t i = 0; i < 16; ++i) {
    const Error e = measure(spec, std::exp2(i / 16.0), n, 40 + i);
    sum = {sum.relative_abs + e.relative_abs / 16, sum.relative_rms + e.relative_rms / 16, sum.sqnr_db + e.sqnr_db / 16,
           sum.damped + e.damped / 16};
  }
  return sum;
}

}  // namespace

// Sample sizes: 2^20 for each figure of NVFP4, 16 * 2^17 for MXFP4. The table is docs/quantization.md's; tolerances
// are its last digit (sampling moves the figures by less).
TEST_CASE("error on N(0,1): NVFP4 te") {
  const Error e = measure({}, 1, 1 << 20, 31);
  CHECK(e.relative_abs == Approx(0.0895).margin(0.0006));
  CHECK(e.relative_rms == Approx(0.0951).margin(0.0006));
  CHECK(e.sqnr_db == Approx(20.4).margin(0.06));
  CHECK(e.damped == Approx(0.157).margin(0.001));
}

TEST_CASE("error on N(0,1): MXFP4 floor, averaged over an octave") {
  const Error e = over_an_octave({Format::mxfp4, Mode::floor}, 1 << 17);
  CHECK(e.relative_abs == Approx(0.107).margin(0.001));
  CHECK(e.relative_rms == Approx(0.1155).margin(0.001));
  CHECK(e.sqnr_db == Approx(18.7).margin(0.1));
  CHECK(e.damped == Approx(0.181).margin(0.002));
}

TEST_CASE("without the fp32 scale small weights suffer, with it they do not") {
  const Spec one_level{Format::nvfp4, Mode::torchao_one_level};
  CHECK(measure(one_level, 0.02, 1 << 20, 32).sqnr_db == Approx(17.7).margin(0.06));
  CHECK(measure(one_level, 0.01, 1 << 20, 33).sqnr_db == Approx(12.9).margin(0.06));
  CHECK(measure(one_level, 1, 1 << 20, 34).sqnr_db == Approx(20.4).margin(0.06));
  CHECK(measure({}, 0.02, 1 << 20, 32).sqnr_db == Approx(20.4).margin(0.06));
  CHECK(measure({}, 0.01, 1 << 20, 33).sqnr_db == Approx(20.4).margin(0.06));
}
