// Products against fp64, and what they promise about rows, NaN, scales and units.
#include "quant/product/product.h"

#include <omp.h>

#include <algorithm>
#include <functional>

#include "catch.h"
#include "data.h"
#include "quant/fake_quantize.h"
#include "quant/product/multiplier.h"
#include "quant/product/operand.h"
#include "quant/product/probe.h"

using namespace assay::quant;
using namespace assay::quant::test;
using assay::test::report_skipped;
namespace product = assay::quant::product;

namespace {

using Matrix = std::vector<double>;

std::vector<Unit> units(const std::string& what) {
  if (available(Unit::bf16)) return {Unit::fp32, Unit::bf16};
  report_skipped(what + " on bf16 units", "this processor has neither bf16 dot products nor AMX");
  return {Unit::fp32};
}

float value(const product::Operand& x, std::size_t i) {
  return x.bf16.empty() ? x.fp32[i] : std::bit_cast<float>(static_cast<std::uint32_t>(x.bf16[i]) << 16);
}

// What an operand stands for.
Matrix exact(const product::Operand& x) {
  Matrix values(static_cast<std::size_t>(x.rows * x.cols));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = value(x, i) * x.factor[i / static_cast<std::size_t>(x.cols)];
  }
  for (const product::Outside& o : x.outside) values[static_cast<std::size_t>(o.row * x.cols + o.col)] = o.value;
  return values;
}

product::Operand operand(const Spec& spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                         int axis = 1, Unit unit = Unit::fp32, bool centred = true) {
  product::Operand made;
  product::quantize(spec, product::tensor_max(x.data(), rows * cols), unit, centred, axis, x.data(), rows, cols, made);
  return made;
}

Matrix widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

double gamma(double j) { return j * 0x1p-24 / (1 - j * 0x1p-24); }

// How far y [m, n] lies from x [m, k] w^T [k, n] + bias: the largest error in units of gamma(k + more) * (S + |bias|) +
// 2^-149, so that 1 is the bound; and the largest in units of S.
struct Distance {
  double of_bound = 0, of_sum = 0;
};
Distance distance(const std::vector<float>& y, const Matrix& x, const Matrix& w, std::int64_t m, std::int64_t n,
                  std::int64_t k, const float* bias = nullptr, double more = 2) {
  Distance most;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      // long double: with 64 bits the reference's own error is nothing beside u = 2^-24, even for K in the thousands.
      long double sum = 0, magnitude = 0;
      for (std::int64_t c = 0; c < k; ++c) {
        const long double p = static_cast<long double>(x[static_cast<std::size_t>(i * k + c)]) * w[static_cast<std::size_t>(j * k + c)];
        sum += p;
        magnitude += std::fabs(p);
      }
      const double b = bias ? bias[j] : 0;
      const auto error = static_cast<double>(std::fabs(y[static_cast<std::size_t>(i * n + j)] - (sum + b)));
      const auto scale = static_cast<double>(magnitude + std::fabs(b));
      const double allowed = gamma(static_cast<double>(k) + more) * scale + 0x1p-149;
      most.of_bound = error <= most.of_bound * allowed ? most.of_bound : error / allowed;  // NaN is kept
      if (scale > 0x1p-100) most.of_sum = std::max(most.of_sum, error / scale);
    }
  }
  return most;
}

struct Shape {
  std::int64_t m, k, n;
};
const std::vector<Shape> shapes{{1, 1, 1},  {1, 15, 3},  {3, 16, 17},  {2, 17, 5},   {7, 33, 64},
                                {5, 96, 240}, {33, 100, 50}, {300, 48, 31}, {4, 576, 96}, {1, 1536, 20}};

std::vector<float> times(std::vector<float> x, float by) {
  for (float& v : x) v *= by;
  return x;
}

// Sizes over many octaves: the sums of quantized normal data fit fp32 exactly, and would show nothing.
std::vector<float> heavy(std::int64_t n, std::uint32_t seed, float sigma = 1) {
  auto x = normal(n, seed, sigma);
  const auto octaves = normal(n, seed + 1000, 3);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= std::exp2(octaves[i]);
  return x;
}

// Every 32 columns 2^60 up, as they are, or 2^60 down, in turns; with sign -1 the other way round, so that products of
// the two are all of one size.
std::vector<float> wide_rows(std::int64_t rows, std::int64_t cols, std::uint32_t seed, int sign) {
  auto x = normal(rows * cols, seed);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int turn = static_cast<int>(i % static_cast<std::size_t>(cols) / 32 % 3) - 1;
    x[i] = std::ldexp(x[i], sign * 60 * turn);
  }
  return x;
}

}  // namespace

TEST_CASE("every code times every block scale is a bf16 number, and products of them fp32 numbers") {
  std::vector<float> values;
  for (int code = 0; code < 8; ++code) {
    for (int scale = 0; scale < 127; ++scale) {
      const double v = static_cast<double>(decode_e2m1(static_cast<std::uint8_t>(code))) * decode_e4m3(static_cast<std::uint8_t>(scale));
      const auto f = static_cast<float>(v);
      CHECK(f == v);
      CHECK((std::bit_cast<std::uint32_t>(f) & 0xffff) == 0);
      values.push_back(f);
    }
  }
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  std::size_t inexact = 0;
  for (float a : values) {
    for (float b : values) inexact += static_cast<double>(a * b) != static_cast<double>(a) * b;
  }
  CHECK(inexact == 0);
}

TEST_CASE("an operand is what fake quantization gives, taken apart") {
  const std::int64_t rows = 37, cols = 83;
  auto specs = all_specs();
  specs.push_back({"te, static", {.scope = Scope::fixed, .static_max = 2.5f}});
  specs.push_back({"te, stochastic", {.rounding = Rounding::stochastic, .seed = 7}});
  specs.push_back({"ct, stochastic", {.mode = Mode::ct, .rounding = Rounding::stochastic, .seed = 8}});
  specs.push_back({"rceil, stochastic", {.format = Format::mxfp4, .mode = Mode::rceil, .rounding = Rounding::stochastic}});
  for (const Named& named : specs) {
    for (int axis : {1, 0}) {
      if (!takes_axis(named.spec, axis)) continue;
      for (bool wide : {false, true}) {
        const auto x = wide ? nasty(rows * cols, 5) : normal(rows * cols, 6);
        const auto fake = run(named.spec, x, rows, cols, axis);
        for (bool centred : {true, false}) {
          const auto single = operand(named.spec, x, rows, cols, axis, Unit::fp32, centred);
          const auto half = operand(named.spec, x, rows, cols, axis, Unit::bf16, centred);
          CAPTURE(named.name, axis, wide, centred);
          CHECK((centred || single.outside.empty()));
          const Matrix ours = exact(single);
          std::size_t different = 0, far = 0;
          for (std::size_t i = 0; i < x.size(); ++i) {
            // Uncentred MXFP4 has subnormal values, which keep more bits than bf16 has below 2^-126: fp32 only.
            if (centred || named.spec.format == Format::nvfp4) {
              different += std::bit_cast<std::uint32_t>(value(single, i)) != std::bit_cast<std::uint32_t>(value(half, i));
            }
            // te rounds q * ((s * A) / 2688) on the way, where ours is q * s * (A / 2688).
            far += !(std::fabs(ours[i] - fake[i]) <= 4 * 0x1p-24 * std::fabs(ours[i]) + 0x1p-147);
          }
          CHECK(different == 0);
          CHECK(far == 0);
        }
      }
    }
  }
}

TEST_CASE("stochastic rounding depends on an element's place in the matrix, not on the pieces it is done in") {
  const std::int64_t rows = 48, cols = 70;
  const auto x = normal(rows * cols, 7);
  const Spec spec{.rounding = Rounding::stochastic, .seed = 3};
  const float a = product::tensor_max(x.data(), rows * cols);
  product::Operand whole, piece;
  product::quantize(spec, a, Unit::fp32, true, 1, x.data(), rows, cols, whole);
  product::quantize(spec, a, Unit::fp32, true, 1, x.data() + 32 * cols, 16, cols, piece, 32);
  CHECK(std::equal(piece.fp32.begin(), piece.fp32.end(), whole.fp32.begin() + 32 * cols));
  product::quantize(spec, a, Unit::fp32, true, 1, x.data() + 32 * cols, 16, cols, piece, 0);
  CHECK_FALSE(std::equal(piece.fp32.begin(), piece.fp32.end(), whole.fp32.begin() + 32 * cols));
}

TEST_CASE("linear_w4a4 against fp64: the error of an fp32 sum and nothing more") {
  double worst_of_sum = 0;
  for (const Unit unit : units("linear_w4a4 against fp64")) {
    for (const Named& w_spec : all_specs()) {
      for (const Named& x_spec : all_specs()) {
        for (const Shape& s : shapes) {
          for (int axis : {1, 0}) {
            if (!takes_axis(w_spec.spec, axis)) continue;
            const auto x = heavy(s.m * s.k, 21, 3), w = heavy(s.n * s.k, 22, 0.02f), bias = normal(s.n, 23);
            const Weight packed(w_spec.spec, axis, w.data(), s.n, s.k, Use::w4a4, unit);
            CHECK(packed.unit() == unit);
            std::vector<float> y(static_cast<std::size_t>(s.m * s.n));
            const Counts counts = linear_w4a4(x_spec.spec, packed, x.data(), s.m, y.data());
            CHECK(counts.weight_fp64_blocks + counts.activation_fp64_blocks == 0);
            const Matrix xq = exact(operand(x_spec.spec, x, s.m, s.k));
            const Matrix wq = exact(operand(w_spec.spec, w, s.n, s.k, axis));
            CAPTURE(name(unit), w_spec.name, x_spec.name, s.m, s.k, s.n, axis);
            const Distance d = distance(y, xq, wq, s.m, s.n, s.k);
            CHECK(d.of_bound <= 1);
            worst_of_sum = std::max(worst_of_sum, d.of_sum);
            // And with what fake_quantize() gives for operands.
            const Matrix xf = widened(run(x_spec.spec, x, s.m, s.k)), wf = widened(run(w_spec.spec, w, s.n, s.k, axis));
            CHECK(distance(y, xf, wf, s.m, s.n, s.k, nullptr, 10).of_bound <= 1);
            linear_w4a4(x_spec.spec, packed, x.data(), s.m, y.data(), bias.data());
            CHECK(distance(y, xq, wq, s.m, s.n, s.k, bias.data()).of_bound <= 1);
          }
        }
      }
    }
  }
  std::printf("linear_w4a4: largest error %.2g of the sum of magnitudes\n", worst_of_sum);
  CHECK(worst_of_sum < 1e-6);
}

TEST_CASE("on normal data the sums are exact, so their order, the kernel and the unit change no bit") {
  const std::int64_t m = 20, k = 1536, n = 40;
  const auto x = normal(m * k, 24), w = normal(n * k, 25, 0.02f);
  const auto on = units("the same bits on normal data");
  for (const Named& named : all_specs()) {
    if (named.spec.mode == Mode::torchao_one_level) continue;  // its scales stop at 2^-6, and may be few or many
    const Matrix xq = exact(operand(named.spec, x, m, k)), wq = exact(operand(named.spec, w, n, k));
    for (const Unit unit : on) {
      const Weight packed(named.spec, 1, w.data(), n, k, Use::w4a4, unit);
      std::vector<float> y(static_cast<std::size_t>(m * n));
      linear_w4a4(named.spec, packed, x.data(), m, y.data());
      std::size_t different = 0;
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          long double sum = 0;
          for (std::int64_t c = 0; c < k; ++c) sum += static_cast<long double>(xq[static_cast<std::size_t>(i * k + c)]) * wq[static_cast<std::size_t>(j * k + c)];
          different += y[static_cast<std::size_t>(i * n + j)] != static_cast<float>(sum);
        }
      }
      CAPTURE(named.name, name(unit));
      CHECK(different == 0);
    }
  }
}

TEST_CASE("linear_w4a4: huge and tiny scales, and rows too wide for fp32, which are counted") {
  const std::int64_t m = 9, k = 200, n = 30;
  for (const Unit unit : units("linear_w4a4 with extreme scales")) {
    for (const Named& named : all_specs()) {
      for (const auto& [up, down] : {std::pair{1e30f, 1e-30f}, {1e-36f, 1e36f}, {1e-30f, 1e-8f}, {1e18f, 1e18f}, {1e-38f, 1.0f}}) {
        const auto x = times(normal(m * k, 31), up), w = times(normal(n * k, 32), down);
        const Weight packed(named.spec, 1, w.data(), n, k, Use::w4a4, unit);
        std::vector<float> y(static_cast<std::size_t>(m * n));
        linear_w4a4(named.spec, packed, x.data(), m, y.data());
        CAPTURE(name(unit), named.name, up, down);
        CHECK(distance(y, exact(operand(named.spec, x, m, k)), exact(operand(named.spec, w, n, k)), m, n, k).of_bound <= 1);
      }
    }
    const Spec mx{Format::mxfp4, Mode::floor};
    for (int axis : {1, 0}) {
      const auto x = wide_rows(m, k, 33, 1), w = wide_rows(n, k, 34, -1);
      const Weight packed(mx, axis, w.data(), n, k, Use::w4a4, unit);
      std::vector<float> y(static_cast<std::size_t>(m * n));
      const Counts counts = linear_w4a4(mx, packed, x.data(), m, y.data());
      const auto xq = operand(mx, x, m, k), wq = operand(mx, w, n, k, axis);
      CAPTURE(name(unit), axis);
      CHECK(counts.activation_fp64_blocks == xq.outside_blocks);
      CHECK(counts.weight_fp64_blocks == wq.outside_blocks);
      CHECK(counts.activation_fp64_blocks > 0);
      CHECK(counts.weight_fp64_blocks > 0);
      CHECK(distance(y, exact(xq), exact(wq), m, n, k).of_bound <= 1);
      // What lies outside is not lost: here the result is made of nothing else, of w, of x, of both.
      std::vector<float> apart(96, 0.0f), meets(96, 0.0f);
      apart[0] = 0x1p60f, apart[32] = 3 * 0x1p-60f;
      const Weight one(mx, axis, apart.data(), 1, 96, Use::w4a4, unit);
      float result = 0;
      meets[32] = 4;
      Counts of_one = linear_w4a4(mx, one, meets.data(), 1, &result);
      CHECK(result == 12 * 0x1p-60f);
      CHECK((of_one.weight_fp64_blocks == 1 && of_one.activation_fp64_blocks == 0));
      meets[64] = 0x1p120f;
      of_one = linear_w4a4(mx, one, meets.data(), 1, &result);
      CHECK(result == 12 * 0x1p-60f);
      CHECK((of_one.weight_fp64_blocks == 1 && of_one.activation_fp64_blocks == 1));
      meets[32] = 0, meets[0] = 2;
      linear_w4a4(mx, one, meets.data(), 1, &result);
      CHECK(result == 0x1p61f);
    }
  }
}

TEST_CASE("NaN reaches the outputs that its block takes part in, and no others") {
  const std::int64_t m = 12, k = 100, n = 21;
  for (const Unit unit : units("NaN")) {
    for (const Named& named : all_specs()) {
      auto x = normal(m * k, 41), w = normal(n * k, 42);
      x[static_cast<std::size_t>(4 * k + 97)] = std::numeric_limits<float>::quiet_NaN();
      x[static_cast<std::size_t>(9 * k + 3)] = -std::numeric_limits<float>::infinity();
      w[static_cast<std::size_t>(7 * k + 50)] = std::numeric_limits<float>::infinity();
      const Weight packed(named.spec, 1, w.data(), n, k, Use::w4a4, unit);
      std::vector<float> y(static_cast<std::size_t>(m * n));
      linear_w4a4(named.spec, packed, x.data(), m, y.data());
      CAPTURE(name(unit), named.name);
      const auto xf = run(named.spec, x, m, k), wf = run(named.spec, w, n, k);
      const auto holds_nan = [&](const std::vector<float>& in, std::int64_t row) {
        return std::any_of(in.begin() + row * k, in.begin() + (row + 1) * k, [](float v) { return std::isnan(v); });
      };
      CHECK((holds_nan(xf, 4) && holds_nan(xf, 9) && holds_nan(wf, 7)));
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          CHECK(std::isnan(y[static_cast<std::size_t>(i * n + j)]) == (holds_nan(xf, i) || holds_nan(wf, j)));
        }
      }
      Spec saturating = named.spec;
      saturating.non_finite = NonFinite::hw_saturate;
      const Weight finite(saturating, 1, w.data(), n, k, Use::w4a4, unit);
      linear_w4a4(saturating, finite, x.data(), m, y.data());
      const auto xq = widened(run(saturating, x, m, k)), wq = widened(run(saturating, w, n, k));
      CHECK(distance(y, xq, wq, m, n, k, nullptr, 10).of_bound <= 1);
    }
  }
}

TEST_CASE("nothing to do: zero rows, outputs, or inputs") {
  const std::vector<float> w(64, 1), x(64, 1), bias{1, 2, 3, 4};
  std::vector<float> y;
  for (const Unit unit : units("zero sizes")) {
    y.assign(8, 7);
    linear_w4a4({}, Weight({}, 1, w.data(), 4, 16, Use::w4a4, unit), x.data(), 0, y.data());
    linear_w4a4({}, Weight({}, 1, w.data(), 0, 16, Use::w4a4, unit), x.data(), 4, y.data());
    CHECK(y == std::vector<float>(8, 7));
    const Weight none({}, 1, w.data(), 4, 0, Use::w4a4, unit);
    linear_w4a4({}, none, x.data(), 2, y.data(), bias.data());
    CHECK(y == std::vector<float>{1, 2, 3, 4, 1, 2, 3, 4});
    linear_w4a4({}, none, x.data(), 2, y.data());
    CHECK(y == std::vector<float>(8, 0));
  }
  linear(Weight(w.data(), 4, 0, Use::forward), x.data(), 2, y.data(), bias.data());
  CHECK(y == std::vector<float>{1, 2, 3, 4, 1, 2, 3, 4});
  linear(Weight(w.data(), 0, 4, Use::backward), x.data(), 2, y.data());
  CHECK(y == std::vector<float>(8, 0));
  linear(Weight(w.data(), 4, 4, Use::forward), x.data(), 0, y.data());
  CHECK(y == std::vector<float>(8, 0));
}

TEST_CASE("linear: fp32 products forward and backward, weights as they are or quantized") {
  for (const Shape& s : shapes) {
    const auto x = normal(s.m * s.k, 51), w = normal(s.n * s.k, 52), dy = normal(s.m * s.n, 53), bias = normal(s.n, 54);
    std::vector<float> y(static_cast<std::size_t>(s.m * s.n)), dx(static_cast<std::size_t>(s.m * s.k));
    const auto turned = [&](const Matrix& from) {  // [n, k] -> [k, n]
      Matrix to(from.size());
      for (std::int64_t j = 0; j < s.n; ++j) {
        for (std::int64_t c = 0; c < s.k; ++c) to[static_cast<std::size_t>(c * s.n + j)] = from[static_cast<std::size_t>(j * s.k + c)];
      }
      return to;
    };
    CAPTURE(s.m, s.k, s.n);
    linear(Weight(w.data(), s.n, s.k, Use::forward), x.data(), s.m, y.data());
    CHECK(distance(y, widened(x), widened(w), s.m, s.n, s.k).of_bound <= 1);
    linear(Weight(w.data(), s.n, s.k, Use::forward), x.data(), s.m, y.data(), bias.data());
    CHECK(distance(y, widened(x), widened(w), s.m, s.n, s.k, bias.data()).of_bound <= 1);
    linear(Weight(w.data(), s.n, s.k, Use::backward), dy.data(), s.m, dx.data());
    CHECK(distance(dx, widened(dy), turned(widened(w)), s.m, s.k, s.n).of_bound <= 1);
    for (const Named& named : all_specs()) {
      for (int axis : {1, 0}) {
        if (!takes_axis(named.spec, axis)) continue;
        const Matrix wq = exact(operand(named.spec, w, s.n, s.k, axis, Unit::fp32, false));
        CAPTURE(named.name, axis);
        linear(Weight(named.spec, axis, w.data(), s.n, s.k, Use::forward), x.data(), s.m, y.data(), bias.data());
        CHECK(distance(y, widened(x), wq, s.m, s.n, s.k, bias.data()).of_bound <= 1);
        if (named.spec.scope == Scope::row) continue;
        linear(Weight(named.spec, axis, w.data(), s.n, s.k, Use::backward), dy.data(), s.m, dx.data());
        CHECK(distance(dx, widened(dy), turned(wq), s.m, s.k, s.n).of_bound <= 1);
      }
    }
  }
}

TEST_CASE("a row of the result does not depend on how many rows there are, nor on threads") {
  const std::int64_t most = 600;
  const Spec per_row{Format::nvfp4, Mode::te, Scope::row}, mx{Format::mxfp4, Mode::floor};
  const int threads = omp_get_max_threads();
  const auto on = units("independence of rows");
  struct Case {
    std::string what;
    std::int64_t width;
    bool ours;  // our kernel promises it; of oneDNN with AVX-512 it was measured, for the first four sizes and 2 threads
    std::function<void(const float* x, std::int64_t m, float* y)> multiply;
  };
  std::int64_t elsewhere = 0;
  int size = 0;
  for (const auto& [k, n] : {std::pair<std::int64_t, std::int64_t>{96, 240}, {240, 96}, {576, 1536}, {1536, 576}, {96, 512}, {33, 7}}) {
    const auto x = heavy(most * std::max(k, n), 61), w = heavy(n * k, 62);
    std::vector<Case> cases;
    const auto ours = [](const Weight& weight) { return weight.implementation().find("oneDNN") == std::string::npos; };
    for (const Use use : {Use::forward, Use::backward}) {
      const Weight plain(w.data(), n, k, use);
      const bool back = use == Use::backward;
      cases.push_back({back ? "linear, backward" : "linear", back ? k : n, ours(plain),
                       [plain](const float* from, std::int64_t m, float* to) { linear(plain, from, m, to); }});
    }
    for (const Unit unit : on) {
      for (const Spec& spec : {per_row, mx}) {
        const Weight packed(spec, 1, w.data(), n, k, Use::w4a4, unit);
        cases.push_back({"linear_w4a4 " + std::string(name(unit)) + " " + std::string(name(spec.format)), n, ours(packed),
                         [packed, spec](const float* from, std::int64_t m, float* to) { linear_w4a4(spec, packed, from, m, to); }});
      }
    }
    for (const Case& one : cases) {
      std::vector<float> all(static_cast<std::size_t>(most * one.width)), some(all.size());
      omp_set_num_threads(2);
      one.multiply(x.data(), most, all.data());
      for (const int count : {2, 1, 3}) {
        omp_set_num_threads(count);
        for (const std::int64_t m : {1, 2, 3, 4, 5, 7, 8, 16, 32, 33, 64, 257, 512, 600}) {
          one.multiply(x.data(), m, some.data());
          std::int64_t different = 0;
          for (std::size_t i = 0; i < static_cast<std::size_t>(m * one.width); ++i) {
            different += std::bit_cast<std::uint32_t>(some[i]) != std::bit_cast<std::uint32_t>(all[i]);
          }
          CAPTURE(one.what, k, n, m, count);
          if (one.ours || (size < 4 && count == 2)) CHECK(different == 0);
          else elsewhere += different;
        }
      }
      omp_set_num_threads(threads);
    }
    ++size;
  }
  std::printf("rows alone and together: %lld differing bits where oneDNN was not measured before\n",
              static_cast<long long>(elsewhere));
}

TEST_CASE("both kernels for fp32, each by itself") {
  if (!product::panels_available()) report_skipped("the AVX2 kernel", "this processor has no AVX2");
  for (const Shape& s : shapes) {
    for (bool transposed : {true, false}) {
      const auto x = normal(s.m * s.k, 71), b = normal(s.n * s.k, 72);
      std::vector<std::unique_ptr<product::Multiplier>> kernels;
      kernels.push_back(product::onednn(Unit::fp32, b.data(), s.k, s.n, transposed));
      if (product::panels_available()) kernels.push_back(product::panels(b.data(), s.k, s.n, transposed));
      Matrix w(b.size());
      for (std::int64_t c = 0; c < s.k; ++c) {
        for (std::int64_t j = 0; j < s.n; ++j) {
          w[static_cast<std::size_t>(j * s.k + c)] = b[static_cast<std::size_t>(transposed ? j * s.k + c : c * s.n + j)];
        }
      }
      for (const auto& kernel : kernels) {
        std::vector<float> y(static_cast<std::size_t>(s.m * s.n)), back(b.size());
        kernel->run(x.data(), s.m, y.data());
        CAPTURE(kernel->implementation(), s.m, s.k, s.n, transposed);
        CHECK(distance(y, widened(x), w, s.m, s.n, s.k).of_bound <= 1);
        kernel->unpack(back.data());
        CHECK(back == b);
      }
    }
  }
}

TEST_CASE("the probe tells fp32 sums from narrower ones") {
  for (const Unit unit : units("the probe")) {
    CHECK(accumulation_error(unit) == 0);
    std::puts(describe(unit).c_str());
  }
  const auto with = [](const std::function<float(float sum, float product)>& add) {
    return product::known_sums([&](const float* a, const float* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y) {
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          float sum = 0;
          for (std::int64_t c = 0; c < k; ++c) sum = add(sum, a[i * k + c] * b[c * n + j]);
          y[i * n + j] = sum;
        }
      }
    });
  };
  const auto cut = [](float v, std::uint32_t bits) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(v) & ~((1u << bits) - 1)); };
  CHECK(with([](float sum, float p) { return sum + p; }) == 0);
  CHECK(with([&](float sum, float p) { return cut(sum + p, 16); }) > 0);  // bf16
  CHECK(with([&](float sum, float p) { return cut(sum + p, 1); }) > 0);   // one bit short of fp32
  CHECK(with([](float, float) { return std::numeric_limits<float>::quiet_NaN(); }) != 0);
}

TEST_CASE("names of units") {
  CHECK(parse_unit("bf16") == Unit::bf16);
  CHECK(parse_unit("fp32") == Unit::fp32);
  CHECK_FALSE(parse_unit("fp16"));
  CHECK(best_unit() == (available(Unit::bf16) ? Unit::bf16 : Unit::fp32));
}
