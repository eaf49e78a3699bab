// Exact products of tensors: operands against those of quant/product, products against both its own and sums in double.
#include "quant/torch/exact.h"

#include <torch/types.h>

#include <bit>
#include <cmath>
#include <vector>

#include "catch.h"
#include "data.h"
#include "quant/product/operand.h"
#include "quant/product/product.h"
#include "quant/torch/fake_quantize.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

at::Tensor matrix(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return at::tensor(at::ArrayRef<float>(values), at::kFloat).view({rows, cols});
}

product::Operand reference(const at::Tensor& x, const Spec& spec, int axis) {
  product::Operand made;
  const float max = needs_tensor_max(spec) ? product::tensor_max(x.const_data_ptr<float>(), x.numel()) : 0;
  product::quantize(spec, max, Unit::bf16, /*centred=*/false, axis, x.const_data_ptr<float>(), x.size(0), x.size(1), made);
  return made;
}

// An fp32 sum of k products in any order, and some roundings around it.
double gamma(std::int64_t k) { return static_cast<double>(k) * 0x1p-24 / (1 - static_cast<double>(k) * 0x1p-24); }

}  // namespace

TEST_CASE("exact: operands are those of quant/product, bit for bit, in every mode, scope, tile and along both axes") {
  std::uint32_t seed = 0;
  std::size_t compared = 0;
  for (const Named& named : all_specs())
    for (const int axis : {1, 0}) {
      if (!takes_axis(named.spec, axis)) continue;
      for (const bool wild : {false, true}) {
        CAPTURE(named.name, axis, wild);
        const std::int64_t rows = 33, cols = 80;
        const at::Tensor x = matrix(wild ? nasty(rows * cols, ++seed) : normal(rows * cols, ++seed), rows, cols);
        const product::Operand wanted = reference(x, named.spec, axis);
        const ExactOperand got = exact_operand(x, named.spec, axis);
        REQUIRE(got.elements.scalar_type() == at::kBFloat16);
        REQUIRE(got.factor.numel() == (named.spec.scope == Scope::row ? rows : 1));
        const auto* bits = reinterpret_cast<const std::uint16_t*>(got.elements.const_data_ptr());
        std::size_t different = 0;
        for (std::size_t i = 0; i < wanted.bf16.size(); ++i) {
          const auto nan = [](std::uint16_t b) { return (b & 0x7fff) > 0x7f80; };
          different += bits[i] != wanted.bf16[i] && !(nan(bits[i]) && nan(wanted.bf16[i]));
        }
        CHECK(different == 0);
        for (std::int64_t r = 0; r < rows; ++r)
          CHECK(got.factor.const_data_ptr<double>()[got.factor.numel() == 1 ? 0 : r] == wanted.factor[static_cast<std::size_t>(r)]);
        ++compared;
      }
    }
  CHECK(compared > 20);
}

TEST_CASE("exact: products are within an fp32 sum of the true ones") {
  std::uint32_t seed = 100;
  for (const Named& named : all_specs()) {
    if (named.spec.tiles) continue;  // of weights
    CAPTURE(named.name);
    Spec of_weight = named.spec;
    of_weight.scope = Scope::tensor;
    const std::int64_t m = 7, n = 19, k = 176;
    const at::Tensor x = matrix(normal(m * k, ++seed), m, k), w = matrix(normal(n * k, ++seed), n, k);
    const ExactOperand qx = exact_operand(x, named.spec), qw = exact_operand(w, of_weight);
    const at::Tensor y = exact_product(qx, qw).to(at::kDouble);
    // Without rounding, of the operands.
    const at::Tensor a = qx.elements.to(at::kDouble) * qx.factor, b = qw.elements.to(at::kDouble) * qw.factor;
    const at::Tensor size = at::mm(a.abs(), b.abs().t());
    CHECK(((y - at::mm(a, b.t())).abs() <= gamma(k + 2) * size).all().item<bool>());
    // The trainer's product of fp32 values, whose scales were rounded up to four times on the way.
    const at::Tensor c = fake_quantize(x, named.spec, 1).to(at::kDouble), d = fake_quantize(w, of_weight, 1).to(at::kDouble);
    CHECK(((y - at::mm(c, d.t())).abs() <= gamma(k + 10) * size).all().item<bool>());
    // quant/product's.
    std::vector<float> other(static_cast<std::size_t>(m * n));
    linear_w4a4(named.spec, Weight(of_weight, 1, w.const_data_ptr<float>(), n, k, Use::w4a4, Unit::fp32), x.const_data_ptr<float>(), m,
                other.data());
    CHECK(((y - matrix(other, m, n).to(at::kDouble)).abs() <= 2 * gamma(k + 2) * size).all().item<bool>());
  }
}

TEST_CASE("exact: a poisoned block makes its row NaN, nothing else; empty matrices") {
  at::Tensor x = matrix(normal(4 * 32, 1), 4, 32);
  x[2][5] = std::nanf("");
  const at::Tensor y = exact_product(exact_operand(x, {.scope = Scope::row}), exact_operand(matrix(normal(3 * 32, 2), 3, 32), {}));
  CHECK(y.isnan().sum().item<std::int64_t>() == 3);
  CHECK(y[2].isnan().all().item<bool>());
  CHECK(exact_product(exact_operand(at::empty({0, 32}), {}), exact_operand(at::ones({3, 32}), {})).sizes() == at::IntArrayRef{0, 3});
  CHECK_THROWS_WITH(exact_operand(at::ones({2, 3, 4}), {}), Catch::Contains("float32 matrix"));
}

TEST_CASE("exact: whether a device adds in fp32 is measured") { CHECK(exact_product_error(at::kCPU) == 0); }
