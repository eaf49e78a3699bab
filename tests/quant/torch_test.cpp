// The LibTorch binding: values, strides, refusals, types, and the gradient with and without the straight-through estimator.
#include "quant/torch/fake_quantize.h"

#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "catch.h"
#include "data.h"
#include "quant/fake_quantize.h"
#include "quant/torch/matrix.h"
#include "quant/torch/parallel.h"

using namespace assay::quant;

namespace {

const Spec nvfp4{};
const Spec per_row{Format::nvfp4, Mode::te, Scope::row};
const Spec mxfp4{Format::mxfp4, Mode::floor};

at::Tensor random(at::IntArrayRef sizes, std::uint64_t seed) {
  at::manual_seed(seed);
  return torch::randn(sizes);
}

Type type_of(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? Type::fp32 : x.scalar_type() == at::kBFloat16 ? Type::bf16 : Type::fp16;
}

// The same by the plain library, on a contiguous copy.
at::Tensor expected(const at::Tensor& x, const Spec& spec, int axis) {
  const at::Tensor in = x.detach().clone(at::MemoryFormat::Contiguous), out = torch::empty_like(in);
  const std::int64_t cols = in.dim() ? in.size(-1) : 1, rows = cols ? in.numel() / cols : 0;
  fake_quantize(spec, ConstView{in.const_data_ptr(), type_of(in), rows, cols, cols, 1},
                View{out.mutable_data_ptr(), type_of(in), rows, cols, cols, 1}, axis);
  return out;
}

bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.is_contiguous() && b.is_contiguous() && a.scalar_type() == b.scalar_type() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

// Modes, scopes, tiles, and stochastic rounding where a mode has it.
std::vector<test::Named> all() {
  std::vector<test::Named> specs = test::all_specs();
  specs.push_back({"static", {.scope = Scope::fixed, .static_max = 3}});
  specs.push_back({"hw_saturate", {.non_finite = NonFinite::hw_saturate}});
  for (std::size_t i = specs.size(); i-- > 0;) {
    test::Named stochastic = specs[i];
    stochastic.name += ", stochastic";
    stochastic.spec.rounding = Rounding::stochastic;
    stochastic.spec.seed = i;
    if (objection(stochastic.spec, 1).empty()) specs.push_back(stochastic);
  }
  return specs;
}

}  // namespace

TEST_CASE("values are the library's, for any mode, type, shape and stride") {
  const auto base = random({6, 40, 50}, 1);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    auto x = base.to(type);
    x[0][1][2] = NAN;
    x[1][30][49] = -INFINITY;
    x[2][0][7] = -0.0;
    const std::vector<at::Tensor> tensors = {
        x, x.transpose(0, 2), x.slice(2, 3, 47, 2), x[0], x[0].t(), x[0].narrow(1, 5, 33), x[0][0], x[0][0][0],
        x[0].expand({3, 40, 50}), x[0][0].expand({7, 50}), at::_neg_view(x[1]), torch::empty({0, 16}, type),
        torch::empty({4, 0}, type)};
    for (const auto& [name, spec] : all()) {
      INFO(name << ", " << type);
      for (const auto& t : tensors) {
        for (int axis : {1, 0}) {
          if (!objection(spec, axis).empty()) continue;
          const auto before = t.clone();
          const auto y = fake_quantize(t, spec, axis);
          CHECK(same(y, expected(t, spec, axis)));
          CHECK(same(fake_quantize_ste(t, spec, axis), y));
          CHECK(torch::equal(t.nan_to_num(9), before.nan_to_num(9)));  // the input is left alone
          CHECK_FALSE(y.is_alias_of(t));
        }
      }
    }
  }
}

TEST_CASE("matrices are read where they lie") {
  const auto x = random({6, 40, 50}, 1);
  for (const auto& t : {x, x[0].t(), x.slice(2, 3, 47, 2), x[0][0].expand({7, 50}), x.narrow(1, 3, 1)}) {
    const auto found = matrix_view(t);
    REQUIRE(found);
    CHECK(found->data == t.const_data_ptr());
    CHECK(found->rows * found->cols == t.numel());
  }
  CHECK_FALSE(matrix_view(x.transpose(0, 1).narrow(0, 0, 20)));
}

TEST_CASE("the figures are the library's") {
  const auto x = random({33, 65}, 2);
  ErrorStats ours, theirs;
  fake_quantize(x, mxfp4, 1, &ours);
  std::vector<float> out(33 * 65);
  fake_quantize(mxfp4, x.const_data_ptr<float>(), out.data(), 33, 65, 1, &theirs);
  CHECK(ours.sum_err2 == theirs.sum_err2);
  CHECK(ours.saturated == theirs.saturated);
  CHECK(ours.count == 33 * 65);
  CHECK(ours.sum_err2 > 0);
}

TEST_CASE("the number of threads does not change a bit") {
  const int threads = at::get_num_threads();
  const auto x = random({3001, 177}, 3);
  for (const auto& [name, spec] : all()) {
    INFO(name);
    for (int axis : {1, 0}) {
      if (!objection(spec, axis).empty()) continue;
      at::set_num_threads(1);
      const auto one = fake_quantize(x, spec, axis);
      at::set_num_threads(2);
      CHECK(same(fake_quantize(x, spec, axis), one));
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("straight-through: the gradient passes unchanged, through both hooks' forms") {
  for (const Spec& spec : {nvfp4, mxfp4}) {
    auto x = random({5, 48}, 4).requires_grad_();
    const auto upstream = random({5, 48}, 5);
    const auto y = fake_quantize_ste(x, spec, 1);
    REQUIRE(y.requires_grad());
    y.backward(upstream);
    CHECK(torch::equal(x.grad(), upstream));

    // In a linear layer: grad_x = W^T grad_y, grad_W = grad_y x_q^T, both with quantized operands.
    auto input = random({7, 48}, 6).requires_grad_(), weight = random({11, 48}, 7).requires_grad_();
    const auto quantized_input = fake_quantize(input, spec, 1), quantized_weight = fake_quantize(weight, spec, 1);
    const auto out = fake_quantize_ste(input, spec, 1).matmul(fake_quantize_ste(weight, spec, 1).t());
    const auto gradient = random({7, 11}, 8);
    out.backward(gradient);
    CHECK(torch::allclose(input.grad(), gradient.matmul(quantized_weight), 1e-5, 1e-6));
    CHECK(torch::allclose(weight.grad(), gradient.t().matmul(quantized_input), 1e-5, 1e-6));
  }
}

TEST_CASE("without the estimator the result carries no gradient") {
  auto x = random({5, 48}, 9).requires_grad_();
  const auto y = fake_quantize(x, nvfp4, 1);
  CHECK_FALSE(y.requires_grad());
  const auto strided = fake_quantize(x.t(), nvfp4, 1);
  CHECK_FALSE(strided.requires_grad());
  // What reaches the loss beside the quantizer still trains; what reaches it only through the quantizer does not.
  (y.sum() + (x * 2).sum()).backward();
  CHECK(torch::equal(x.grad(), torch::full_like(x, 2)));
  auto z = random({5, 48}, 10).requires_grad_(), w = random({3, 48}, 11).requires_grad_();
  fake_quantize(z, nvfp4, 1).matmul(w.t()).sum().backward();
  CHECK_FALSE(z.grad().defined());
  CHECK(w.grad().defined());
}

TEST_CASE("no gradient is wanted: the estimator adds none") {
  auto x = random({5, 48}, 12);
  CHECK_FALSE(fake_quantize_ste(x, nvfp4, 1).requires_grad());
  x.requires_grad_();
  const at::NoGradGuard guard;
  CHECK_FALSE(fake_quantize_ste(x, nvfp4, 1).requires_grad());
}

TEST_CASE("what is not supported is refused") {
  const auto x = random({4, 16}, 13);
  CHECK_THROWS_WITH(fake_quantize(x, {.mode = Mode::te46, .rounding = Rounding::stochastic}, 1),
                    Catch::Contains("Four-over-Six compares errors, so it rounds to nearest even"));
  CHECK_THROWS_AS(fake_quantize(x.to_sparse(), nvfp4, 1), c10::Error);
  CHECK_THROWS_AS(fake_quantize(x.to(at::kDouble), nvfp4, 1), c10::Error);
  CHECK_THROWS_AS(fake_quantize_ste(x.to(at::kLong), nvfp4, 1), c10::Error);
  CHECK_THROWS_AS(fake_quantize(x, nvfp4, 2), c10::Error);
  CHECK_THROWS_AS(fake_quantize(x, per_row, 0), c10::Error);
  CHECK_THROWS_AS(fake_quantize(torch::empty({4, 16}, at::kMeta), nvfp4, 1), c10::Error);
}

TEST_CASE("rows are shared among LibTorch's threads, every one of them once") {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mine;
  std::set<std::thread::id> threads;
  std::vector<int> seen(1000);
  assay::over_rows(1000, 10, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mine);
    threads.insert(std::this_thread::get_id());
    for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  });
  CHECK(threads.size() == 2);
  CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  CHECK_THROWS_AS(assay::over_rows(1000, 10, [](std::int64_t, std::int64_t) { throw std::out_of_range("said"); }), std::out_of_range);
  at::set_num_threads(before);
}
