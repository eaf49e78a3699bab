// NVFP4 operands as a GPU's FP4 units read them, and products on a GPU: the layout and what is refused always, products
// where there is a GPU.
#include "quant/product/fp4_layout.h"

#include <set>

#include "catch.h"
#include "data.h"
#include "quant/block.h"
#include "quant/product/multiplier.h"
#include "quant/product/operand.h"
#include "quant/product/probe.h"
#include "quant/product/product.h"

using namespace assay::quant;
using namespace assay::quant::test;
using product::Fp4Layout;

namespace {

// Element (r, c) as the units see it: its code times its block's scale.
float element_of(const std::uint8_t* operand, const Fp4Layout& layout, std::int64_t r, std::int64_t c) {
  const int byte = operand[r * layout.code_stride() + c / 2];
  const float scale = block::stored_of(Format::nvfp4, operand[layout.code_bytes() + layout.scale_at(r, c / 16)]);
  return block::value_of(byte >> (c % 2 * 4) & 15) * scale;
}

// y [m, n] = a [m, k] b [n, k]^T of such operands, every sum in ascending k; `round` after every addition.
template <class Round>
void multiply(const void* a, const void* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y, const Round& round) {
  const Fp4Layout of_a{m, k}, of_b{n, k};
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (std::int64_t c = 0; c < k; ++c)
        sum = round(sum + element_of(static_cast<const std::uint8_t*>(a), of_a, i, c) *
                              element_of(static_cast<const std::uint8_t*>(b), of_b, j, c));
      y[i * n + j] = sum;
    }
}

}  // namespace

// Golden: torchao 0.18.0, prototype.mx_formats.utils.to_blocked, of scales i * 2654435761 % 251 + 1; FNV-1a of its bytes.
TEST_CASE("scales lie in tiles of 128 x 4 as torchao's to_blocked() puts them") {
  struct Golden {
    std::int64_t rows, blocks, bytes;
    std::uint64_t hash;
  };
  for (const Golden& golden : {Golden{128, 4, 512, 0x7e44826cd3852e33}, Golden{200, 6, 2048, 0xf94e41a41e075887},
                               Golden{31, 33, 4608, 0x4658e42146865043}}) {
    const Fp4Layout layout{golden.rows, golden.blocks * 16};
    CAPTURE(golden.rows, golden.blocks);
    REQUIRE(layout.scale_bytes() == golden.bytes);
    std::vector<std::uint8_t> scales(static_cast<std::size_t>(layout.scale_bytes()));
    std::set<std::int64_t> places;
    for (std::int64_t r = 0; r < golden.rows; ++r)
      for (std::int64_t b = 0; b < golden.blocks; ++b) {
        const std::int64_t at = layout.scale_at(r, b);
        REQUIRE(at >= 0);
        REQUIRE(at < golden.bytes);
        places.insert(at);
        const auto i = static_cast<std::uint64_t>(r * golden.blocks + b);
        scales[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(i * 2654435761u % 251 + 1);
      }
    CHECK(static_cast<std::int64_t>(places.size()) == golden.rows * golden.blocks);
    std::uint64_t hash = 1469598103934665603u;
    for (const std::uint8_t byte : scales) hash = (hash ^ byte) * 1099511628211u;
    CHECK(hash == golden.hash);
  }
}

TEST_CASE("an FP4 operand holds the numbers of the exact product's, and zeros around them") {
  auto specs = all_specs();
  specs.push_back({"te, stochastic", {.rounding = Rounding::stochastic, .seed = 7}});
  specs.push_back({"te, static", {.scope = Scope::fixed, .static_max = 2.5f}});
  for (const Named& named : specs) {
    CAPTURE(named.name);
    if (named.spec.format == Format::mxfp4) {
      CHECK_FALSE(product::fp4_objection(named.spec, 1).empty());
      continue;
    }
    CHECK(product::fp4_objection(named.spec, 0) != "");
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 16}, {37, 83}, {130, 96}}) {
      const auto x = nasty(rows * cols, 5);
      const float a = product::tensor_max(x.data(), rows * cols);
      product::Operand fp4, fp32;
      product::quantize(named.spec, a, Unit::cuda_fp4, true, 1, x.data(), rows, cols, fp4, 32);
      product::quantize(named.spec, a, Unit::fp32, true, 1, x.data(), rows, cols, fp32, 32);
      const Fp4Layout layout{rows, cols};
      REQUIRE(static_cast<std::int64_t>(fp4.fp4.size()) == layout.bytes());
      CHECK(fp4.data() == fp4.fp4.data());
      CHECK(fp4.factor == fp32.factor);
      CHECK(fp4.outside.empty());
      std::size_t different = 0;
      for (std::int64_t r = 0; r < layout.padded_rows(); ++r)
        for (std::int64_t c = 0; c < layout.padded_cols(); ++c) {
          const bool inside = r < rows && c < cols;
          const float got = r < rows ? element_of(fp4.fp4.data(), layout, r, c)
                                     : static_cast<float>(fp4.fp4[static_cast<std::size_t>(r * layout.code_stride() + c / 2)]);
          different += !(got == (inside ? fp32.fp32[static_cast<std::size_t>(r * cols + c)] : 0.0f));
        }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("a block with NaN has the scale NaN, and what is not FP4 along K is refused") {
  auto x = normal(4 * 32, 3);
  x[40] = std::numeric_limits<float>::quiet_NaN();
  product::Operand fp4;
  product::quantize({}, 4, Unit::cuda_fp4, true, 1, x.data(), 4, 32, fp4);
  const Fp4Layout layout{4, 32};
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t c = 0; c < 32; ++c) CHECK(std::isnan(element_of(fp4.fp4.data(), layout, r, c)) == (r == 1 && c < 16));
  CHECK_THROWS_WITH(product::quantize({}, 4, Unit::cuda_fp4, true, 0, x.data(), 4, 32, fp4), Catch::Contains("along K only"));
  CHECK_THROWS_WITH(product::quantize({.format = Format::mxfp4, .mode = Mode::floor}, 4, Unit::cuda_fp4, true, 1, x.data(), 4, 32, fp4),
                    Catch::Contains("for nvfp4"));
  // The same object holds another unit's form afterwards.
  product::quantize({}, 4, Unit::bf16, true, 1, x.data(), 4, 32, fp4);
  CHECK(fp4.data() == fp4.bf16.data());
}

TEST_CASE("the FP4 probe tells fp32 sums from narrower ones") {
  const auto with = [](const auto& round) {
    return product::known_fp4_sum([&](const void* a, const void* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y) {
      multiply(a, b, m, k, n, y, round);
    });
  };
  const auto cut = [](float v, std::uint32_t bits) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(v) & ~((1u << bits) - 1)); };
  CHECK(with([](float v) { return v; }) == 0);
  CHECK(with([&](float v) { return cut(v, 1); }) > 0);
  CHECK(with([&](float v) { return cut(v, 16); }) > 0);
}

TEST_CASE("a unit that is not there says why, by its name") {
  CHECK(parse_unit("cuda-bf16") == Unit::cuda_bf16);
  CHECK(parse_unit("cuda-fp4") == Unit::cuda_fp4);
  const auto w = normal(32 * 32, 1);
  for (const Unit unit : {Unit::bf16, Unit::cuda_bf16, Unit::cuda_fp4}) {
    CAPTURE(std::string(name(unit)));
    CHECK(available(unit) == missing(unit).empty());
    CHECK(missing(unit).find('\n') == std::string::npos);
    if (available(unit)) continue;
    CHECK_THROWS_WITH(Weight({}, 1, w.data(), 32, 32, Use::w4a4, unit), missing(unit));
    CHECK_THAT(describe(unit), Catch::Contains("not on this machine") && Catch::Contains(missing(unit)));
  }
  CHECK_THROWS_WITH(Weight({.format = Format::mxfp4, .mode = Mode::te}, 1, w.data(), 32, 32, Use::w4a4),
                    Catch::Contains("the mode belongs to the other format"));
}

TEST_CASE("products on a GPU") {
  for (const Unit unit : {Unit::cuda_bf16, Unit::cuda_fp4}) {
    if (!available(unit)) {
      assay::test::report_skipped(std::string("products by ") + std::string(name(unit)), missing(unit));
      continue;
    }
    CAPTURE(std::string(name(unit)));
    CHECK(accumulation_error(unit) == 0);
    std::puts(describe(unit).c_str());
    for (const auto& [m, k, n] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 96, 240}, {33, 240, 96}, {512, 576, 1536}, {600, 83, 37}})
      for (const Spec& spec : {Spec{}, Spec{.scope = Scope::row}, Spec{.mode = Mode::ct}, Spec{.format = Format::mxfp4, .mode = Mode::rceil}}) {
        if (unit == Unit::cuda_fp4 && spec.format == Format::mxfp4) continue;
        CAPTURE(m, k, n, std::string(name(spec.mode)));
        Spec of_weight = spec;
        of_weight.scope = Scope::tensor;
        const auto x = normal(m * k, 1), w = normal(n * k, 2);
        const Weight packed(of_weight, 1, w.data(), n, k, Use::w4a4, unit), plain(of_weight, 1, w.data(), n, k, Use::w4a4, Unit::fp32);
        std::vector<float> got(static_cast<std::size_t>(m * n)), wanted(got);
        linear_w4a4(spec, packed, x.data(), m, got.data());
        linear_w4a4(spec, plain, x.data(), m, wanted.data());
        double most = 0, size = 0;
        for (std::size_t i = 0; i < got.size(); ++i) {
          most = std::max(most, std::abs(static_cast<double>(got[i]) - wanted[i]));
          size = std::max(size, std::abs(static_cast<double>(wanted[i])));
        }
        // Two fp32 sums of k products in different orders.
        CHECK(most <= 2 * static_cast<double>(k + 2) * 0x1p-24 * size * 40);
      }
  }
}
