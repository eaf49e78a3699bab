// The fast paths against the scalar oracle, bit for bit, on random and on nasty data.
#include <bit>
#include <cstdio>

#include "catch.h"
#include "data.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

struct Shape {
  std::int64_t rows, cols;
};
// Whole and partial blocks of both formats, more and fewer than a chunk of 64 blocks or 512 columns, and nothing at all.
constexpr Shape shapes[] = {{1, 1},   {1, 15},  {1, 16},  {1, 17},   {3, 31},  {2, 32},   {5, 33},  {7, 96},
                            {16, 64}, {17, 65}, {33, 240}, {64, 63}, {3, 1040}, {2, 2079}, {40, 1}, {17, 1100}, {0, 8}, {8, 0}};

void compare(const Spec& spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols) {
  for (int axis : {1, 0}) {
    if (!takes_axis(spec, axis)) continue;
    std::vector<float> expected(x.size());
    ErrorStats expected_stats;
    fake_quantize_reference(spec, x.data(), expected.data(), rows, cols, axis, &expected_stats);
    for (Path path : available_paths()) {
      CAPTURE(rows, cols, axis, std::string(name(path)));
      CHECK(same_bits(run(spec, x, rows, cols, axis, path), expected));
      std::vector<float> in_place = x;
      ErrorStats stats;
      fake_quantize_piece(spec, finite_max(x.data(), rows * cols), in_place.data(), in_place.data(), rows, cols, axis,
                          &stats, path);
      CHECK(same_bits(in_place, expected));
      CHECK(stats.saturated == expected_stats.saturated);
      CHECK(stats.sum_err2 == expected_stats.sum_err2);
      CHECK(stats.count == expected_stats.count);
      CHECK(stats.dead == expected_stats.dead);
    }
  }
}

}  // namespace

TEST_CASE("all paths give the oracle's bits: normal, any finite bits, nasty") {
  for (const Named& named : all_specs()) {
    CAPTURE(named.name);
    std::uint32_t seed = 1;
    for (const Shape& shape : shapes) {
      const std::int64_t n = shape.rows * shape.cols;
      compare(named.spec, normal(n, ++seed), shape.rows, shape.cols);
      compare(named.spec, any_bits(n, ++seed), shape.rows, shape.cols);
      compare(named.spec, nasty(n, ++seed), shape.rows, shape.cols);
    }
    compare(named.spec, nasty(300 * 512, 77), 300, 512);
  }
  report_missing_paths("paths against the oracle");
}

TEST_CASE("all paths give the oracle's bits with NaN and Inf, under both policies") {
  for (Named named : all_specs()) {
    for (NonFinite policy : {NonFinite::propagate, NonFinite::hw_saturate}) {
      named.spec.non_finite = policy;
      CAPTURE(named.name, int(policy));
      compare(named.spec, any_bits(64 * 100, 5, true), 64, 100);
      auto few = normal(64 * 1040, 6);
      few[70] = few[5000] = std::numeric_limits<float>::quiet_NaN();
      few[33000] = -std::numeric_limits<float>::infinity();
      compare(named.spec, few, 64, 1040);
    }
  }
}

TEST_CASE("pieces of a tensor give the bits of the whole") {
  const auto x = nasty(96 * 70, 9);
  for (const Named& named : all_specs()) {
    for (int axis : {1, 0}) {
      if (!takes_axis(named.spec, axis)) continue;
      const auto whole = run(named.spec, x, 96, 70, axis);
      std::vector<float> pieces(x.size());
      const float tensor_max = finite_max(x.data(), 96 * 70);
      for (std::int64_t r = 0; r < 96; r += 32) {
        fake_quantize_piece(named.spec, tensor_max, x.data() + r * 70, pieces.data() + r * 70, 32, 70, axis);
      }
      CAPTURE(named.name, axis);
      CHECK(same_bits(pieces, whole));
    }
  }
}

TEST_CASE("finite_max looks at finite values only") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x(1000, 0.5f);
  x[700] = -3.25f;
  CHECK(finite_max(x.data(), 1000) == 3.25f);
  x[1] = inf;
  x[2] = nan;
  x[999] = -nan;
  CHECK(finite_max(x.data(), 1000) == 3.25f);
  const float none[] = {nan, -inf};
  CHECK(finite_max(none, 2) == 0);
  CHECK(finite_max(none, 0) == 0);
}

TEST_CASE("path names") {
  for (Path path : {Path::reference, Path::generic, Path::avx2, Path::avx512}) CHECK(parse_path(name(path)) == path);
  CHECK_FALSE(parse_path("sse"));
  CHECK(available(best_path()));
  std::printf("paths here:");
  for (Path path : available_paths()) std::printf(" %s", std::string(name(path)).c_str());
  std::printf("\n");
}

TEST_CASE("bf16 of any size, with Inf and NaN in some chunks, gives the oracle's bits") {
  const std::int64_t rows = 70, cols = 2100;
  for (const Named& named : all_specs()) {
    for (const bool finite : {true, false}) {
      std::vector<std::uint16_t> x;
      for (float v : any_bits(rows * cols, 7)) x.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16));
      if (!finite) x[3] = 0xff80, x[40 * cols + 1500] = 0x7fc1;
      const ConstView in{x.data(), Type::bf16, rows, cols, cols, 1};
      for (const int axis : {1, 0}) {
        if (!takes_axis(named.spec, axis)) continue;
        const auto by = [&](Path path) {
          std::vector<std::uint16_t> y(x.size());
          fake_quantize_piece(named.spec, finite_max(in), in, {y.data(), Type::bf16, rows, cols, cols, 1}, axis, 0,
                              nullptr, path);
          return y;
        };
        const auto expected = by(Path::reference);
        for (const Path path : available_paths()) {
          CAPTURE(named.name, finite, axis, std::string(name(path)));
          CHECK((by(path) == expected));
        }
      }
    }
  }
}

TEST_CASE("fp32 rows under a maximum each, several of them in a chunk, give the oracle's bits") {
  constexpr std::int64_t rows = 70;
  for (Named named : all_specs()) {
    if (named.spec.scope != Scope::row) continue;
    for (const Rounding rounding : {Rounding::nearest_even, Rounding::stochastic}) {
      named.spec.rounding = rounding;
      if (!objection(named.spec, 1).empty()) continue;
      for (const std::int64_t cols : {16, 48, 96, 250, 1024, 1040}) {
        for (const bool finite : {true, false}) {
          std::vector<float> x = nasty(rows * cols, 7);
          std::fill_n(x.begin() + 5 * cols, cols, 0.f);
          if (!finite) x[3] = INFINITY, x[static_cast<std::size_t>(40 * cols + 15)] = NAN;
          const auto by = [&](Path path, bool in_place, bool counts) {
            std::vector<float> y = in_place ? x : std::vector<float>(x.size());
            ErrorStats stats;
            fake_quantize_piece(named.spec, 0, in_place ? y.data() : x.data(), y.data(), rows, cols, 1, counts ? &stats : nullptr, path);
            std::vector<std::uint32_t> bits;
            for (const float v : y) bits.push_back(std::bit_cast<std::uint32_t>(v));
            return std::pair(bits, stats.saturated);
          };
          const auto expected = by(Path::reference, false, true);
          for (const Path path : available_paths()) {
            CAPTURE(named.name, std::string(name(rounding)), cols, finite, std::string(name(path)));
            CHECK((by(path, false, true) == expected));
            CHECK((by(path, true, false).first == expected.first));
          }
        }
      }
    }
  }
}

TEST_CASE("bf16: every magnitude under scales of every mantissa gives the oracle's bits") {
  // A block's maximum takes all 128 mantissas, its other elements all magnitudes of the ten octaves below it.
  constexpr int one = 0x3f80, below = 10 * 128;
  for (const Named& named : all_specs()) {
    const int block = named.spec.block();
    std::vector<std::uint16_t> x;
    for (int most = one; most < one + 128; ++most) {
      for (int magnitude = most - below, i = 0; magnitude <= most; ++i) {
        const int sign = (i * 7 + most) % 3 == 0 ? 0x8000 : 0;
        x.push_back(static_cast<std::uint16_t>((i % block == 0 ? most : magnitude++) | sign));
      }
      while (x.size() % static_cast<std::size_t>(block) != 0) x.push_back(0x8000);
    }
    const auto blocks = static_cast<std::int64_t>(x.size()) / block;
    std::vector<std::uint16_t> turned(x.size());  // the same blocks, as columns
    for (std::int64_t b = 0; b < blocks; ++b)
      for (int i = 0; i < block; ++i)
        turned[static_cast<std::size_t>(i * blocks + b)] = x[static_cast<std::size_t>(b * block + i)];
    // The scale of the whole tensor moves all bounds besides; the last two are outside of what is done in 16 bits.
    for (const float tensor_max : {1.9921875f, 2.53125f, 333.0f, 0x1.9p+60f, 0x1p-115f, 0x1p+120f}) {
      for (const int axis : {1, 0}) {
        if (!takes_axis(named.spec, axis)) continue;
        const auto by = [&](Path path) {
          const std::vector<std::uint16_t>& from = axis == 1 ? x : turned;
          std::vector<std::uint16_t> y(x.size());
          const std::int64_t rows = axis == 1 ? blocks : block, cols = axis == 1 ? block : blocks;
          fake_quantize_piece(named.spec, tensor_max, {from.data(), Type::bf16, rows, cols, cols, 1},
                              {y.data(), Type::bf16, rows, cols, cols, 1}, axis, 0, nullptr, path);
          return y;
        };
        const auto expected = by(Path::reference);
        for (const Path path : available_paths()) {
          CAPTURE(named.name, tensor_max, axis, std::string(name(path)));
          CHECK((by(path) == expected));
        }
      }
    }
  }
}

TEST_CASE("outputs larger than the caches have the bits of small ones") {
  // 16 MiB of bf16. Few rows begin on a cache line; all do; all begin 16 bytes behind one.
  const auto [cols, behind] = GENERATE(table<std::int64_t, int>({{4099, 0}, {4096, 0}, {4096, 16}}));
  const std::int64_t rows = 2053;
  const std::vector<float> x = normal(rows * cols, 9);
  std::vector<std::uint16_t> narrow;
  for (float v : x) narrow.push_back(encode_bf16(v));
  const auto check = [&](const Spec& spec, auto values, Type type) {
    const ConstView in{values.data(), type, rows, cols, cols, 1};
    const float most = finite_max(in);
    using Element = typename decltype(values)::value_type;
    std::vector<Element> memory(values.size() + 64);
    const auto line = (reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64 + static_cast<unsigned>(behind);
    Element* large = reinterpret_cast<Element*>(line);
    for (const int axis : {0, 1}) {
      for (const Path path : available_paths()) {
        if (path == Path::reference) continue;
        auto in_place = values;  // in place nothing goes past the caches
        std::fill(memory.begin(), memory.end(), Element{});
        fake_quantize_piece(spec, most, in, {large, type, rows, cols, cols, 1}, axis, 0, nullptr, path);
        const View own{in_place.data(), type, rows, cols, cols, 1};
        fake_quantize_piece(spec, most, as_const(own), own, axis, 0, nullptr, path);
        CAPTURE(std::string(name(spec.mode)), std::string(name(type)), axis, std::string(name(path)));
        CHECK(std::equal(in_place.begin(), in_place.end(), large));
      }
    }
  };
  for (const Spec& spec : {Spec{}, Spec{Format::mxfp4, Mode::floor}}) {
    check(spec, x, Type::fp32);
    check(spec, narrow, Type::bf16);
  }
}
