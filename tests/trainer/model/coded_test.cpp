// Products of codes: by bf16 units and by fp32 arithmetic, against double, and a layer that multiplies with them.
#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <cmath>

#include "catch.h"
#include "quant/packed.h"
#include "quant/torch/fake_quantize.h"
#include "tests/trainer/model/tiny.h"
#include "trainer/model/coded.h"
#include "trainer/model/kernels/kernels.h"
#include "trainer/model/projection.h"

using namespace assay;
using namespace assay::train;

namespace assay::train::kernels {
const Table& avx512_in_halves();  // wide_kernels.cpp
}

namespace {

at::Tensor normal(std::initializer_list<std::int64_t> sizes, std::uint64_t seed) {
  return at::empty(sizes, at::kFloat).normal_(0, 1, test::generator(seed));
}

// E2M1 codes times E4M3-like scales of many octaves.
at::Tensor codes(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  const at::Tensor code = at::tensor({0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f}).index({at::randint(8, {rows, cols}, test::generator(seed))});
  const at::Tensor sign = at::randint(2, {rows, cols}, test::generator(seed + 1)).to(at::kFloat) * 2 - 1;
  const at::Tensor mantissa = at::randint(8, {rows, cols}, test::generator(seed + 2)).to(at::kFloat) / 8 + 1;
  return code * sign * mantissa * at::exp2(at::randint(-9, 9, {rows, cols}, test::generator(seed + 3)).to(at::kFloat));
}

std::vector<const kernels::Table*> tables() {
  std::vector<const kernels::Table*> all{&kernels::portable()};
  const std::string active = kernels::active().name;
  if (active != "portable") {
    all.push_back(&kernels::avx2());
    all.push_back(&kernels::avx512_in_halves());
  }
  if (active == "avx512") all.push_back(&kernels::avx512());
  if (!quant::gemm::has_bf16_units()) test::report_skipped("bf16 units", "this processor has no AVX512_BF16");
  return all;
}

std::vector<std::uint32_t> coded(const kernels::Table& table, const at::Tensor& x, float factor) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(x.size(0) * quant::gemm::words(x.size(1))));
  for (std::int64_t i = 0; i < x.size(0); ++i)
    REQUIRE(table.code_row(x.size(1), x.const_data_ptr<float>() + i * x.size(1), factor, words.data() + i * quant::gemm::words(x.size(1))));
  return words;
}

quant::Spec spec_of(quant::Mode mode, quant::Scope scope = quant::Scope::tensor) {
  quant::Spec spec;
  spec.format = quant::is_mxfp4(mode) ? quant::Format::mxfp4 : quant::Format::nvfp4;
  spec.mode = mode;
  spec.scope = scope;
  return spec;
}

}  // namespace

TEST_CASE("products of codes: every path gives the same bits, near those of double") {
  constexpr float x_factor = .37f, w_factor = .0113f;
  for (const std::int64_t k : {1, 2, 7, 33, 96, 288, 576, 641, 1300})
    for (const std::int64_t n : {1, 8, 15, 16, 17, 40, 96, 200})
      for (const std::int64_t m : {1, 2, 3, 4, 5, 7, 8, 14, 15, 29, 60, 200}) {
        const at::Tensor x = codes(m, k, 1) * x_factor, w = codes(n, k, 5) * w_factor, bias = normal({n}, 3);
        const at::Tensor factor = normal({m}, 4).abs() + .1;
        const auto xw = coded(kernels::active(), x, x_factor), ww = coded(kernels::active(), w, w_factor);
        kernels::PackedPairs packed;
        pack(packed, ww.data(), k, n);
        const at::Tensor x64 = (x.to(at::kDouble) / x_factor), w64 = (w.to(at::kDouble) / w_factor);
        const at::Tensor exact = at::matmul(x64, w64.t()) * factor.unsqueeze(1) + bias;
        const at::Tensor size = at::matmul(x64.abs(), w64.abs().t()) * factor.unsqueeze(1) + bias.abs();
        at::Tensor first;
        for (const auto* table : tables()) {
          INFO(table->name << " m " << m << " n " << n << " k " << k);
          REQUIRE(coded(*table, x, x_factor) == xw);
          const auto product = [&](std::int64_t from, std::int64_t rows, std::int64_t n0, std::int64_t n1, const at::Tensor& y) {
            table->pairs(rows, xw.data() + from * quant::gemm::words(k), quant::gemm::words(k), packed, n0, n1, y.mutable_data_ptr<float>(), n,
                         factor.const_data_ptr<float>() + from, 1, bias.const_data_ptr<float>());
          };
          const at::Tensor y = at::full({m, n}, 7.f);
          product(0, m, 0, n, y);
          REQUIRE(((y.to(at::kDouble) - exact).abs() <= size * (static_cast<double>(k + 3) * 0x1p-24)).all().item<bool>());
          const at::Tensor alone = at::full({1, n}, 7.f);
          product(m - 1, 1, 0, n, alone);
          REQUIRE(test::same_bits(alone, y.narrow(0, m - 1, 1)));
          if (n > kernels::panel) {
            const at::Tensor halves = at::full({m, n}, 7.f);
            product(0, m, kernels::panel, n, halves);
            REQUIRE(halves.narrow(1, 0, kernels::panel).eq(7.f).all().item<bool>());
            product(0, m, 0, kernels::panel, halves);
            REQUIRE(test::same_bits(halves, y));
          }
          if (table == &kernels::portable()) continue;  // rounds once more before the bias
          if (first.defined()) REQUIRE(test::same_bits(y, first));
          first = y;
        }
      }
}

TEST_CASE("elements are got back from the quantized values, in every mode") {
  using quant::Mode;
  for (const Mode mode : {Mode::te, Mode::te46, Mode::te46_mae, Mode::torchao, Mode::torchao_one_level, Mode::ct, Mode::ct_bf16, Mode::floor,
                          Mode::even, Mode::rceil, Mode::ceil}) {
    INFO("mode " << static_cast<int>(mode));
    for (const double size : {1e-6, 1., 300.}) {
      const quant::Spec spec = spec_of(mode);
      // Sizes over many octaves within a tensor.
      const at::Tensor x = (normal({40, 70}, 1) * at::exp2(normal({40, 70}, 2) * 3) * size).contiguous();
      const at::Tensor q = quant::fake_quantize(x, spec, 1);
      const auto rows = code_rows(x, q, spec);
      REQUIRE(rows->plain.empty());
      for (std::int64_t i = 0; i < 40; ++i)
        for (std::int64_t j = 0; j < 70; ++j) {
          const std::uint32_t word = rows->elements[static_cast<std::size_t>(i * rows->words + j / 2)];
          const float element = std::bit_cast<float>(j % 2 ? word << 16 : word & 0xffff0000u);
          int exponent = 0;  // 6 significant bits
          const double mantissa = std::frexp(static_cast<double>(element), &exponent) * 64;
          REQUIRE(mantissa == std::round(mantissa));
          REQUIRE(static_cast<double>(element) * rows->factor[0] == Approx(q[i][j].item<double>()).epsilon(1e-6).margin(0));
        }
    }
  }
}

TEST_CASE("what is no code of the units' range is seen") {
  const auto held = [](std::vector<float> x, float factor) -> bool {
    std::vector<std::uint32_t> words(x.size());
    std::vector<bool> found;
    for (const auto* table : tables()) found.push_back(table->code_row(static_cast<std::int64_t>(x.size()), x.data(), factor, words.data()));
    for (const bool one : found) REQUIRE(one == found[0]);
    return found[0];
  };
  CHECK(held({1, 0, -6, 3.5f}, 1));
  CHECK(held({0, -0.f, 0}, 1));
  CHECK(held({NAN, 2}, 1));
  CHECK(held({.3f, .6f}, .3f));
  CHECK_FALSE(held({1, 1.001f}, 1));         // no code
  CHECK_FALSE(held({1, 0x1p-51f}, 1));       // too small, too large
  CHECK_FALSE(held({1, 0x1p51f}, 1));
  CHECK_FALSE(held({1, INFINITY}, 1));
  CHECK_FALSE(held({1, 2}, 0));              // no factor
  CHECK_FALSE(held({1, 2}, 1e-39f));
  CHECK_FALSE(held({1, 0, 0, 0, 0, 0, 0, 0, 1.001f}, 1));  // behind the first eight
}

TEST_CASE("a wide W4A4 layer multiplies codes, with the same gradients") {
  using quant::Mode;
  const auto mode = GENERATE(Mode::te, Mode::floor);
  const auto scope = GENERATE(quant::Scope::tensor, quant::Scope::row);
  if (scope == quant::Scope::row && mode == Mode::floor) return;
  Quantizers quantizers;
  quantizers.activation = spec_of(mode, scope);
  quantizers.weight = spec_of(mode);
  quantizers.quantize = default_activation_quantizer();
  quantizers.ste = quantizers.in_training = true;
  if (GENERATE(false, true)) quantizers.activation.rounding = quant::Rounding::stochastic;
  const bool on_base = GENERATE(false, true);
  const at::Tensor w = normal({160, 192}, 3), x0 = normal({30, 192}, 4), dy = normal({30, 160}, 5);
  // A row whose blocks lie 2^120 apart, which MXFP4 follows and the units do not.
  if (mode == Mode::floor) x0[7] *= at::exp2(at::arange(192, at::kFloat) * .6f - 60);
  struct Result {
    at::Tensor y, dx, da;
  };
  const auto run = [&](bool codes, float factor) {
    Projection p;
    p.name = "p";
    p.weight = Matrix(w);
    p.quantized = Matrix(quantized_weight(w, quantizers, 7));
    if (codes) {
      auto made = std::make_shared<CodedWeight>(*code_weight(w, p.quantized.value(), quantizers.weight));
      made->factor *= factor;
      p.coded = made;
    }
    p.bias = normal({160}, 6);
    (on_base ? p.on_base : p.on_wrapper) = true;
    p.use = std::make_shared<AdapterUse>();
    p.lora = std::make_unique<LoraPair>();
    p.lora->a = Matrix(normal({4, 192}, 8).set_requires_grad(true));
    p.lora->b = Matrix(normal({160, 4}, 9));
    quantizers.restart(1);
    Memo memo;
    const at::Tensor x = x0.clone().set_requires_grad(true), y = p.forward(x, quantizers, memo);
    y.backward(dy);
    return Result{y.detach(), x.grad(), p.lora->a.value().grad()};
  };
  const auto distance = [](const at::Tensor& a, const at::Tensor& b) {  // of the worst row
    return ((a - b).norm(2, 1) / b.norm(2, 1)).max().item<double>();
  };
  const Result plain = run(false, 1), coded = run(true, 1), twice = run(true, 2);
  CHECK(distance(coded.y, plain.y) < 1e-6);
  CHECK(coded.dx.equal(plain.dx));
  CHECK(coded.da.equal(plain.da));
  // The codes are what was multiplied, but in the row that has none.
  const at::Tensor apart = (twice.y - plain.y).norm(2, 1) / plain.y.norm(2, 1);
  for (std::int64_t i = 0; i < 30; ++i) CHECK((apart[i].item<double>() > .1) != (mode == Mode::floor && i == 7));
}
