// The trainer's products are those of quant/product, bit for bit, where both have a kernel of their own (docs/decisions.md, 6).
#include <bit>
#include <cstdint>
#include <random>
#include <vector>

#include "catch.h"
#include "quant/product/product.h"
#include "trainer/model/kernels/kernels.h"

using namespace assay;
using train::kernels::i64;

TEST_CASE("an fp32 product has the bits of quant/product's, forward and backward") {
  if (quant::describe(quant::Unit::fp32).find("AVX2 kernel") == std::string::npos) {
    test::report_skipped("the trainer's products against quant/product's", "here oneDNN multiplies in quant/product: " +
                                                                              quant::describe(quant::Unit::fp32));
    return;
  }
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](i64 n) {
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& x : v) x = normal(random);
    return v;
  };
  for (const i64 m : {1, 2, 5, 8, 97})
    for (const auto& [out, in] : {std::pair<i64, i64>{240, 96}, {96, 240}, {48, 576}, {83, 300}, {7, 513}}) {
      CAPTURE(m, out, in);
      const auto w = fill(out * in);
      for (const bool backward : {false, true}) {
        const i64 k = backward ? out : in, n = backward ? in : out;
        const auto x = fill(m * k);
        train::kernels::Packed packed;
        if (backward) train::kernels::pack(packed, w.data(), out, in, in, 1);
        else train::kernels::pack(packed, w.data(), in, out, 1, in);
        std::vector<float> ours(static_cast<std::size_t>(m * n)), theirs(ours);
        train::kernels::active().gemm_packed(m, x.data(), k, 1, packed, ours.data(), n, 1.f, nullptr, false);
        quant::linear(quant::Weight(w.data(), out, in, backward ? quant::Use::backward : quant::Use::forward), x.data(), m, theirs.data());
        std::size_t different = 0;
        for (std::size_t i = 0; i < ours.size(); ++i)
          different += std::bit_cast<std::uint32_t>(ours[i]) != std::bit_cast<std::uint32_t>(theirs[i]);
        CHECK(different == 0);
      }
    }
}
