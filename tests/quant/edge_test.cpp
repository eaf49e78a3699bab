// The edge cases that docs/quantization.md lists, one by one.
#include <algorithm>

#include "catch.h"
#include "data.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float largest = std::numeric_limits<float>::max();

}  // namespace

TEST_CASE("propagate: a block with NaN or Inf becomes NaN, its neighbours do not notice") {
  for (const Named& named : all_specs()) {
    const int b = named.spec.block();
    auto clean = normal(4 * b, 3);
    clean[static_cast<std::size_t>(3 * b)] = 9;  // holds the tensor's maximum, in a block that stays clean
    for (float bad : {not_a_number, -not_a_number, infinity, -infinity}) {
      auto x = clean;
      x[static_cast<std::size_t>(b + 2)] = bad;
      const auto before = run(named.spec, clean, 1, 4 * b), after = run(named.spec, x, 1, 4 * b);
      CAPTURE(named.name, bad);
      for (std::size_t i = 0; i < x.size(); ++i) {
        if (i / static_cast<std::size_t>(b) == 1) CHECK(std::isnan(after[i]));
        else CHECK(after[i] == before[i]);
      }
    }
  }
}

TEST_CASE("hw_saturate: Inf becomes ±6 scales, NaN +6, finite neighbours as if it were not there") {
  for (Named named : all_specs()) {
    named.spec.non_finite = NonFinite::hw_saturate;
    const auto b = static_cast<std::size_t>(named.spec.block());
    auto x = normal(static_cast<std::int64_t>(b), 4);
    x[0] = 5;  // the maximum: it fixes the scale and goes to a code of its own
    auto bad = x;
    bad[3] = infinity, bad[4] = -infinity, bad[5] = not_a_number, bad[6] = -not_a_number;
    x[3] = x[4] = x[5] = x[6] = 0;
    const auto clean = run(named.spec, x, 1, static_cast<std::int64_t>(b));
    const auto after = run(named.spec, bad, 1, static_cast<std::int64_t>(b));
    std::vector<float> unused(b);
    const float a = named.spec.scope == Scope::tensor && !has_tensor_scale(named.spec.mode) ? 0.0f : 5.0f;
    const BlockShape row{.width = static_cast<int>(std::min<std::size_t>(b, 16)), .row_stride = 16};
    const BlockShape all{.width = static_cast<int>(b)};
    const float six = 6 * reference_block(named.spec, a, x.data(), unused.data(), named.spec.tiles ? row : all).decode;
    CAPTURE(named.name);
    CHECK(after[3] == six);
    CHECK(after[4] == -six);
    CHECK(after[5] == six);
    CHECK(after[6] == six);
    for (std::size_t i = 0; i < b; ++i) {
      if (i < 3 || i > 6) CHECK(after[i] == clean[i]);
    }
  }
}

TEST_CASE("zeros stay zeros with their sign (ct: without), alone or in a tensor") {
  for (const Named& named : all_specs()) {
    std::vector<float> x(96, 0.0f);
    for (std::size_t i = 1; i < 64; i += 2) x[i] = -0.0f;
    CAPTURE(named.name);
    // compressed-tensors takes the sign by x < 0.
    const bool keeps_sign = named.spec.mode != Mode::ct && named.spec.mode != Mode::ct_bf16;
    const std::vector<float> positive(96, 0.0f);
    CHECK(same_bits(run(named.spec, x, 1, 96), keeps_sign ? x : positive));
    x[95] = 1;  // now there is a tensor scale
    const auto out = run(named.spec, x, 1, 96);
    for (std::size_t i = 0; i < 64; ++i) {
      CHECK(out[i] == 0);
      CHECK(std::signbit(out[i]) == (keeps_sign && std::signbit(x[i])));
    }
  }
}

TEST_CASE("te: a block scale below half of E4M3's smallest number is 0, and so are its elements") {
  std::vector<float> x(32, 0.0f);
  x[0] = 2688;  // S = 1
  x[16] = 6 * 0x1p-10f;  // s = 2^-10: the tie between 0 and 2^-9 goes to 0
  x[17] = -x[16];
  auto out = run({}, x, 1, 32);
  CHECK(out[16] == 0);
  CHECK((out[17] == 0 && std::signbit(out[17])));
  x[16] = 6 * 0x1.02p-10f;
  out = run({}, x, 1, 32);
  CHECK(out[16] == Approx(3 * 0x1p-9));  // s = 2^-9, so x is 3.02 scales
}

TEST_CASE("torchao_one_level: the scale does not go below 2^-6 or above 448") {
  const Spec spec{Format::nvfp4, Mode::torchao_one_level};
  std::vector<float> x(16, 0.0f);
  x[0] = 0.02f;     // 1.28 scales of 2^-6: 1.5
  x[1] = 0.003f;    // .192 scales: 0
  CHECK(run(spec, x, 1, 16)[0] == 1.5f * 0x1p-6f);
  CHECK(run(spec, x, 1, 16)[1] == 0);
  x[0] = 1e6f;
  x[1] = 400;
  CHECK(run(spec, x, 1, 16)[0] == 6 * 448.0f);
  CHECK(run(spec, x, 1, 16)[1] == 448.0f);
}

TEST_CASE("floor: the scale's byte stops at 0, which is 2^-127 and not NaN") {
  const Spec spec{Format::mxfp4, Mode::floor};
  std::vector<float> x(32, 0.0f);
  x[0] = 0x1p-128f, x[1] = 0x1.8p-126f, x[2] = -0x1p-149f, x[3] = 0x1.8p-125f;
  const auto out = run(spec, x, 1, 32);
  CHECK(out[0] == 0x1p-128f);
  CHECK(out[1] == 0x1.8p-126f);
  CHECK((out[2] == 0 && std::signbit(out[2])));
  CHECK(out[3] == 0x1.8p-125f);
  // Top of the range: exponent field 254 gives scale 2^125; 3.4e38 is 8 scales, clipped at 6.
  x[0] = largest;
  CHECK(run(spec, x, 1, 32)[0] == 6 * 0x1p125f);
}

TEST_CASE("subnormals and the largest numbers give neither NaN nor Inf") {
  for (const Named& named : all_specs()) {
    for (int axis : {1, 0}) {
      if (!takes_axis(named.spec, axis)) continue;
      CAPTURE(named.name, axis);
      // 4 scales of 2^126 are no fp32 number; torchao gives Inf there too.
      const bool beyond = named.spec.mode == Mode::even || named.spec.mode == Mode::rceil || named.spec.mode == Mode::ceil;
      for (float top : {largest, -largest, 0x1p127f, 7.7e35f, 7.5e35f, 1e-45f, 1e-40f, 0x1p-126f}) {
        auto x = normal(32 * 48, 8);
        for (float& v : x) v = std::clamp(v / 4, -1.0f, 1.0f) * top;
        x[100] = top;
        x[101] = 0;
        const auto out = run(named.spec, x, 32, 48, axis);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const bool inf = beyond && std::fabs(x[i]) >= 0x1.cp127f;
          CHECK((inf ? out[i] == std::copysign(infinity, x[i]) : std::isfinite(out[i])));
        }
      }
      const auto x = any_bits(32 * 48, 8);
      for (float v : run(named.spec, x, 32, 48, axis)) CHECK((std::isfinite(v) || (beyond && std::isinf(v))));
    }
  }
}

TEST_CASE("te keeps its accuracy where s * A leaves fp32") {
  auto x = normal(64 * 64, 11);
  float top = finite_max(x.data(), 64 * 64);
  for (float& v : x) v = v / top;
  auto large = x;
  for (float& v : large) v *= 0x1p127f;
  const auto small_out = run({}, x, 64, 64), large_out = run({}, large, 64, 64);
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(large_out[i] * 0x1p-127f == Approx(small_out[i]).epsilon(1e-6));
}

TEST_CASE("a partial last block behaves as if padded with zeros") {
  for (const Named& named : all_specs()) {
    for (const std::int64_t cols : {1, 15, 17, 31, 33, 63, 100}) {
      const std::int64_t padded_cols = (cols + 31) / 32 * 32;
      const auto x = normal(5 * cols, 12);
      std::vector<float> padded(static_cast<std::size_t>(5 * padded_cols), 0.0f);
      for (std::int64_t r = 0; r < 5; ++r) {
        std::copy_n(x.begin() + r * cols, cols, padded.begin() + r * padded_cols);
      }
      const auto out = run(named.spec, x, 5, cols), expected = run(named.spec, padded, 5, padded_cols);
      for (std::int64_t r = 0; r < 5; ++r) {
        CAPTURE(named.name, cols, r);
        CHECK(std::equal(out.begin() + r * cols, out.begin() + (r + 1) * cols, expected.begin() + r * padded_cols));
      }
    }
  }
}

TEST_CASE("axis 0 is axis 1 of the transposed matrix") {
  const std::int64_t rows = 45, cols = 70;
  const auto x = normal(rows * cols, 13);
  std::vector<float> turned(x.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) turned[static_cast<std::size_t>(c * rows + r)] = x[static_cast<std::size_t>(r * cols + c)];
  }
  for (const Named& named : all_specs()) {
    if (!takes_axis(named.spec, 0)) continue;
    const auto down = run(named.spec, x, rows, cols, 0), along = run(named.spec, turned, cols, rows, 1);
    int wrong = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        wrong += down[static_cast<std::size_t>(r * cols + c)] != along[static_cast<std::size_t>(c * rows + r)];
      }
    }
    CAPTURE(named.name);
    CHECK(wrong == 0);
  }
}

TEST_CASE("scope row: a row's values do not depend on other rows; scope tensor: they do") {
  auto x = normal(4 * 64, 14);
  auto louder = x;
  for (std::size_t i = 0; i < 64; ++i) louder[i] *= 1000.5f;
  const Spec row{Format::nvfp4, Mode::te, Scope::row}, tensor{};
  const auto tail = [](std::vector<float> v) { return std::vector<float>(v.begin() + 64, v.end()); };
  CHECK(same_bits(tail(run(row, x, 4, 64)), tail(run(row, louder, 4, 64))));
  CHECK_FALSE(same_bits(tail(run(tensor, x, 4, 64)), tail(run(tensor, louder, 4, 64))));
  const std::vector<float> one(x.begin(), x.begin() + 64);
  CHECK(same_bits(run(row, one, 1, 64), run(tensor, one, 1, 64)));
}

TEST_CASE("the figures of a matrix done by hand") {
  std::vector<float> x(32, 0.0f), out(32);
  x[0] = 6, x[1] = 5.5f, x[2] = 0.2f, x[3] = -3.4f, x[4] = 7;  // floor: scale 1
  ErrorStats stats;
  fake_quantize({Format::mxfp4, Mode::floor}, x.data(), out.data(), 1, 32, 1, &stats);
  CHECK(out[1] == 6);
  CHECK(out[3] == -3);
  CHECK(stats.count == 32);
  CHECK(stats.dead == 1);
  CHECK(stats.saturated == 3);
  CHECK(stats.non_finite == 0);
  CHECK(stats.sum_x2 == Approx(36 + 30.25 + 0.04 + 11.56 + 49));
  CHECK(stats.sum_err2 == Approx(0.25 + 0.04 + 0.16 + 1));
  CHECK(stats.sum_abs_err == Approx(0.5 + 0.2 + 0.4 + 1));
  CHECK(stats.sqnr_db() == Approx(10 * std::log10(126.85 / 1.45)));
  x[10] = not_a_number;
  fake_quantize({Format::mxfp4, Mode::floor}, x.data(), out.data(), 1, 32, 1, &stats);
  CHECK(stats.count == 32);  // the whole block is NaN now
  CHECK(stats.non_finite == 32);
  ErrorStats none;
  const std::vector<float> exact{6, 4, 1, 0.5f, 0, -3, 2, 1.5f};
  fake_quantize({Format::mxfp4, Mode::floor}, exact.data(), out.data(), 1, 8, 1, &none);
  CHECK(none.sqnr_db() == infinity);
  CHECK(none.relative_rms() == 0);
}
