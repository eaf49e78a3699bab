// Types, strides, scopes, tiles, pieces and stochastic rounding, on every path.
#include <algorithm>

#include "catch.h"
#include "data.h"
#include "quant/block.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

std::vector<std::uint16_t> narrow(const std::vector<float>& x, Type type) {
  std::vector<std::uint16_t> bits;
  for (float v : x) bits.push_back(type == Type::bf16 ? encode_bf16(v) : encode_fp16(v));
  return bits;
}

std::vector<float> widen(const std::vector<std::uint16_t>& bits, Type type) {
  std::vector<float> x;
  for (std::uint16_t b : bits) x.push_back(type == Type::bf16 ? decode_bf16(b) : decode_fp16(b));
  return x;
}

float max_of(const std::vector<float>& x) { return finite_max(x.data(), static_cast<std::int64_t>(x.size())); }

std::vector<float> with(Spec spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols, int axis, Path path) {
  return run(spec, x, rows, cols, axis, path);
}

}  // namespace

TEST_CASE("bf16 and fp16: what fp32 gives for the widened values, rounded once, in place or not") {
  const std::int64_t rows = 37, cols = 210;
  for (const Named& named : all_specs()) {
    for (const Type type : {Type::bf16, Type::fp16}) {
      const auto narrowed = narrow(normal(rows * cols, 51, type == Type::fp16 ? 100.0f : 1.0f), type);
      auto nasty_bits = narrow(any_bits(rows * cols, 52, true), type);
      for (const auto& bits : {narrowed, nasty_bits}) {
        const auto wide = widen(bits, type);
        for (int axis : {1, 0}) {
          if (!takes_axis(named.spec, axis)) continue;
          for (Path path : available_paths()) {
            const auto expected = narrow(with(named.spec, wide, rows, cols, axis, path), type);
            std::vector<std::uint16_t> out(bits.size()), in_place = bits;
            const ConstView in{bits.data(), type, rows, cols, cols, 1};
            CHECK(finite_max(in) == max_of(wide));
            fake_quantize_piece(named.spec, max_of(wide), in, {out.data(), type, rows, cols, cols, 1}, axis, 0, nullptr, path);
            const ConstView self{in_place.data(), type, rows, cols, cols, 1};
            fake_quantize_piece(named.spec, max_of(wide), self, {in_place.data(), type, rows, cols, cols, 1}, axis, 0,
                                nullptr, path);
            CAPTURE(named.name, std::string(name(type)), axis, std::string(name(path)));
            CHECK(out == expected);
            CHECK(in_place == expected);
          }
        }
      }
    }
  }
}

TEST_CASE("views: slices, transposed and reversed matrices give the bits of their contiguous copies") {
  const std::int64_t rows = 40, cols = 70, big = 200;
  const auto memory = nasty(big * big, 53);
  struct Strides {
    std::ptrdiff_t start, row, col;
  };
  const Strides forms[] = {{7 * big + 3, big, 1}, {5, 1, big}, {3, 2 * big, 2}, {rows * big + cols, -big, -1}, {0, 0, 1}};
  for (const Named& named : all_specs()) {
    for (const Strides& s : forms) {
      const ConstView in{memory.data() + s.start, Type::fp32, rows, cols, s.row, s.col};
      std::vector<float> x;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) x.push_back(memory[static_cast<std::size_t>(s.start + r * s.row + c * s.col)]);
      CHECK(finite_max(in) == max_of(x));
      for (int axis : {1, 0}) {
        if (!takes_axis(named.spec, axis)) continue;
        for (Path path : available_paths()) {
          const auto expected = with(named.spec, x, rows, cols, axis, path);
          std::vector<float> out(x.size()), turned(x.size()), back(x.size());
          fake_quantize_piece(named.spec, max_of(x), in, view(out.data(), rows, cols), axis, 0, nullptr, path);
          fake_quantize_piece(named.spec, max_of(x), in, {turned.data(), Type::fp32, rows, cols, 1, rows}, axis, 0, nullptr, path);
          for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < cols; ++c)
              back[static_cast<std::size_t>(r * cols + c)] = turned[static_cast<std::size_t>(c * rows + r)];
          CAPTURE(named.name, s.row, s.col, axis, std::string(name(path)));
          CHECK(same_bits(out, expected));
          CHECK(same_bits(back, expected));
        }
      }
    }
  }
}

TEST_CASE("nothing is written outside of a view") {
  const std::int64_t rows = 33, cols = 45, stride = 64;
  const auto x = normal(rows * cols, 54);
  for (const Named& named : all_specs()) {
    std::vector<float> out(static_cast<std::size_t>(rows * stride), 7.0f);
    fake_quantize(named.spec, view(x.data(), rows, cols), {out.data(), Type::fp32, rows, cols, stride, 1}, 1);
    int touched = 0;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = cols; c < stride; ++c) touched += out[static_cast<std::size_t>(r * stride + c)] != 7.0f;
    CAPTURE(named.name);
    CHECK(touched == 0);
  }
}

TEST_CASE("scope static: the calibrated maximum's scale, whatever the data; beyond it values saturate") {
  const auto x = normal(32 * 64, 55);
  const float top = max_of(x);
  for (Mode mode : {Mode::te, Mode::te46, Mode::te46_mae, Mode::torchao, Mode::ct, Mode::ct_bf16}) {
    const Spec tensor{.mode = mode}, same{.mode = mode, .scope = Scope::fixed, .static_max = top};
    const Spec half{.mode = mode, .scope = Scope::fixed, .static_max = 0.5f};
    for (Path path : available_paths()) {
      for (int axis : {1, 0}) {
        CAPTURE(std::string(name(mode)), std::string(name(path)), axis);
        CHECK(same_bits(with(same, x, 32, 64, axis, path), with(tensor, x, 32, 64, axis, path)));
        const auto out = with(half, x, 32, 64, axis, path);
        // 6 * 448 units of .5 / 2688 for te; Four-over-Six's units are .5 / 1536, so it reaches 448 / 256 as far.
        const float limit = mode == Mode::te46 || mode == Mode::te46_mae ? 0.875f : 0.5f;
        float largest = 0;
        for (float v : out) largest = std::max(largest, std::fabs(v));
        CHECK(largest == Approx(limit).epsilon(0.005));
        // A maximum of 0 and a small one give finite results for anything.
        for (const float tiny : {0.0f, 1e-45f, 1e-38f}) {
          for (float v : with({.mode = mode, .scope = Scope::fixed, .static_max = tiny}, x, 32, 64, axis, path)) {
            CHECK(std::isfinite(v));
          }
        }
      }
    }
  }
}

TEST_CASE("tiles: 16x16 elements share a scale, and a matrix quantizes like its transpose") {
  const std::int64_t rows = 40, cols = 150;  // partial tiles both ways
  const auto x = nasty(rows * cols, 56);
  std::vector<float> turned(x.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) turned[static_cast<std::size_t>(c * rows + r)] = x[static_cast<std::size_t>(r * cols + c)];
  for (Mode mode : {Mode::te, Mode::torchao, Mode::torchao_one_level, Mode::ct, Mode::ct_bf16}) {
    const Spec spec{.mode = mode, .tiles = true};
    for (Path path : available_paths()) {
      const auto a = with(spec, x, rows, cols, 1, path), b = with(spec, turned, cols, rows, 0, path);
      int wrong = 0;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c)
          wrong += a[static_cast<std::size_t>(r * cols + c)] != b[static_cast<std::size_t>(c * rows + r)];
      CAPTURE(std::string(name(mode)), std::string(name(path)));
      CHECK(wrong == 0);
    }
  }
  // A tile whose rows are all alike has the scale of one row.
  const auto row = normal(16, 57);
  std::vector<float> tile;
  for (int r = 0; r < 16; ++r) tile.insert(tile.end(), row.begin(), row.end());
  for (Mode mode : {Mode::te, Mode::te46, Mode::ct}) {
    const auto one = run({.mode = mode}, row, 1, 16), all = run({.mode = mode, .tiles = true}, tile, 16, 16);
    CAPTURE(std::string(name(mode)));
    for (std::size_t i = 0; i < 256; ++i) CHECK(all[i] == one[i % 16]);
  }
}

TEST_CASE("Four-over-Six takes the better of its two scales, block by block") {
  const auto x = normal(1 << 16, 58);
  for (const bool squared : {true, false}) {
    const Spec te46{.mode = squared ? Mode::te46 : Mode::te46_mae};
    const float a = max_of(x);
    const block::FourOverSix<true> by_square(a);
    const block::FourOverSix<false> by_value(a);
    int second = 0, worse = 0;
    for (std::size_t b = 0; b < x.size(); b += 16) {
      std::vector<float> out(16);
      const BlockResult result = reference_block(te46, a, x.data() + b, out.data(), BlockShape{.width = 16});
      const float am = finite_max(x.data() + b, 16);
      const block::Scale chosen = squared ? block::choose(by_square, am, x.data() + b, 16, 1)
                                          : block::choose(by_value, am, x.data() + b, 16, 1);
      CHECK(chosen.stored == result.stored);
      CHECK(chosen.decode == result.decode);
      const block::Scale first = by_square(am), other = by_square.second(am);
      second += result.stored == other.stored;
      const auto error = [&](const block::Scale& s) {
        double sum = 0;
        for (std::size_t i = b; i < b + 16; ++i) {
          const double e = std::fabs(double(block::round_e2m1(x[i] * s.encode)) * s.decode - x[i]);
          sum += squared ? e * e : e;
        }
        return sum;
      };
      const double taken = result.stored == other.stored ? error(other) : error(first);
      worse += taken > std::min(error(first), error(other)) * (1 + 1e-5);
    }
    CHECK(worse == 0);
    CHECK(second > 1000);  // of 4096
    CHECK(second < 3000);
  }
}

TEST_CASE("stochastic rounding: the same bits for every path, piece and stride; others for another seed") {
  const std::int64_t rows = 96, cols = 130;
  const auto x = nasty(rows * cols, 59);
  for (Named named : all_specs()) {
    named.spec.rounding = Rounding::stochastic;
    named.spec.seed = 5;
    if (!objection(named.spec, 1).empty()) continue;
    for (int axis : {1, 0}) {
      if (!takes_axis(named.spec, axis)) continue;
      CAPTURE(named.name, axis);
      const auto expected = run(named.spec, x, rows, cols, axis, Path::reference);
      for (Path path : available_paths()) CHECK(same_bits(run(named.spec, x, rows, cols, axis, path), expected));
      std::vector<float> pieces(x.size()), strided(2 * x.size());
      for (std::int64_t r = 0; r < rows; r += 32) {
        fake_quantize_piece(named.spec, max_of(x), view(x.data() + r * cols, 32, cols), view(pieces.data() + r * cols, 32, cols),
                            axis, r);
      }
      CHECK(same_bits(pieces, expected));
      fake_quantize(named.spec, view(x.data(), rows, cols), {strided.data(), Type::fp32, rows, cols, 2 * cols, 2}, axis);
      int wrong = 0;
      for (std::size_t i = 0; i < x.size(); ++i) wrong += strided[2 * i] != expected[i];
      CHECK(wrong == 0);
      Spec other = named.spec;
      other.seed = 6;
      CHECK_FALSE(same_bits(run(other, x, rows, cols, axis), expected));
    }
  }
}

TEST_CASE("stochastic rounding is unbiased: the mean over seeds is x, and a value goes up as often as it should") {
  // Block of te with A = am = 6: scale 1, so elements are their own codes' values. 1 in 16 is the maximum.
  const int n = 4096, seeds = 256;
  std::vector<float> x(n);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 16 == 0 ? 6.0f : (i % 2 ? -1.0f : 1.0f) * float(i) * (6.0f / n);
  std::vector<double> sum(x.size());
  for (int seed = 0; seed < seeds; ++seed) {
    const auto out = run({.rounding = Rounding::stochastic, .seed = static_cast<std::uint64_t>(seed)}, x, 1, n);
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += out[i];
  }
  // chi^2 of the means against x, with the variance (upper - x)(x - lower) of one draw: n of them, less those on the grid.
  double chi2 = 0;
  int compared = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = std::fabs(double(x[i]));
    const double step = a < 2 ? 0.5 : a < 4 ? 1 : 2;
    const double lower = std::floor(a / step) * step, variance = (lower + step - a) * (a - lower) / seeds;
    const double error = std::fabs(sum[i] / seeds) - a;
    if (variance == 0) {
      CHECK(error == 0);  // numbers of the grid stay
    } else {
      chi2 += error * error / variance;
      ++compared;
    }
  }
  CHECK(compared > 3700);
  CHECK(std::fabs(chi2 - compared) < 5 * std::sqrt(2.0 * compared));
  // And the grand mean of the signed errors: 256 * 3800 draws of deviation about .35.
  double total = 0;
  for (std::size_t i = 0; i < x.size(); ++i) total += sum[i] / seeds - x[i];
  CHECK(std::fabs(total / n) < 4 * 0.5 / std::sqrt(double(seeds) * n));
}

TEST_CASE("random bits: uniform, and independent between elements and seeds") {
  const int n = 1 << 18;
  double mean = 0, lag = 0, other = 0;
  std::vector<int> buckets(256);
  const std::uint64_t key = block::random_key(1), next = block::random_key(2);
  const auto unit = [](std::int32_t bits) { return (bits + 0.5) / 0x1p22 - 0.5; };
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::int32_t bits = block::random_bits(key, i);
    REQUIRE((bits >= 0 && bits < (1 << 22)));
    ++buckets[static_cast<std::size_t>(bits >> 14)];
    mean += unit(bits);
    lag += unit(bits) * unit(block::random_bits(key, i + 1));
    other += unit(bits) * unit(block::random_bits(next, i));
  }
  double chi2 = 0;
  for (int count : buckets) chi2 += (count - n / 256.0) * (count - n / 256.0) / (n / 256.0);
  CHECK(chi2 < 255 + 5 * std::sqrt(2.0 * 255));
  CHECK(chi2 > 255 - 5 * std::sqrt(2.0 * 255));
  CHECK(std::fabs(mean / n) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::fabs(lag / n) < 5 / 12.0 / std::sqrt(double(n)));
  CHECK(std::fabs(other / n) < 5 / 12.0 / std::sqrt(double(n)));
}

TEST_CASE("decode is stored times the tensor's factor, to the bit where the rule says so") {
  const auto x = normal(1 << 14, 60);
  const float a = max_of(x);
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    for (const std::string& mode : mode_names(format)) {
      block::with_rule(*parse_mode(format, mode), [&](auto tag) {
        using Rule = typename decltype(tag)::type;
        const Rule rule(a);
        CAPTURE(mode);
        int equal = 0, close = 0, blocks = 0;
        for (std::size_t b = 0; b < x.size(); b += 16) {
          const block::Scale s = rule(finite_max(x.data() + b, 16));
          const float product = s.stored * rule.tensor_factor();
          equal += product == s.decode;
          close += std::fabs(product - s.decode) <= 2 * (std::nextafter(s.decode, 1e30f) - s.decode);
          ++blocks;
        }
        CHECK(close == blocks);
        if (Rule::exact_factor) CHECK(equal == blocks);
      });
    }
  }
}
