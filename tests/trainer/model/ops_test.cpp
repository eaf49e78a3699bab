// The kernels against plain loops in double, and the hand-written backwards against ATen's autograd in float64.
#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <algorithm>
#include <cmath>

#include "catch.h"
#include "tests/trainer/model/tiny.h"
#include "trainer/model/attention.h"
#include "trainer/model/head.h"
#include "trainer/model/kernels/kernels.h"
#include "trainer/model/live_rows.h"
#include "trainer/model/ops.h"

using namespace assay;
using namespace assay::train;

namespace assay::train::kernels {
const Table& avx512_in_halves();  // wide_kernels.cpp
}

namespace {

at::Tensor normal(std::initializer_list<std::int64_t> sizes, std::uint64_t seed) {
  return at::empty(sizes, at::kFloat).normal_(0, 1, test::generator(seed));
}

at::Tensor leaf(const at::Tensor& t) { return t.clone().requires_grad_(true); }

// Largest difference between the gradients of f(inputs in float32) and of reference(inputs in float64), of the sum
// of the output weighted by fixed random numbers, relative to the reference's largest entry.
using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;
double gradient_gap(const std::vector<at::Tensor>& inputs, const Function& f, const Function& reference) {
  std::vector<at::Tensor> single, twice;
  for (const auto& t : inputs) {
    single.push_back(leaf(t));
    twice.push_back(leaf(t.to(at::kDouble)));
  }
  const at::Tensor y = f(single), expected = reference(twice);
  REQUIRE(y.sizes() == expected.sizes());
  CHECK(test::gap(y.detach().to(at::kDouble), expected.detach()) < 2e-5 * (1 + expected.abs().max().item<double>()));
  const at::Tensor weights = at::empty(y.sizes(), at::kFloat).normal_(0, 1, test::generator(99));
  const auto got = torch::autograd::grad({(y * weights).sum()}, single);
  const auto wanted = torch::autograd::grad({(expected * weights.to(at::kDouble)).sum()}, twice);
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, test::gap(got[i].to(at::kDouble), wanted[i]) / wanted[i].abs().max().item<double>());
  return worst;
}

}  // namespace

TEST_CASE("products of every edge size, in every build") {
  std::vector<const kernels::Table*> tables{&kernels::portable()};
  const std::string active = kernels::active().name;
  if (active != "portable") {
    tables.push_back(&kernels::avx2());
    tables.push_back(&kernels::avx512_in_halves());
  } else {
    test::report_skipped("avx2 kernels", "they are not the active ones: no AVX2 and FMA, or ASSAY_KERNELS=portable");
  }
  if (active == "avx512")
    tables.push_back(&kernels::avx512());
  else
    test::report_skipped("avx512 kernels", "this processor has no AVX-512; their order of sums is tested in vectors of 8");
  constexpr float alpha = 0.3f;  // no power of two: how it is applied is to be one order of rounding too
  for (const auto* table : tables) {
    for (const std::int64_t m : {1, 2, 3, 5, 6, 7, 13, 14, 25, 100})
      for (const std::int64_t n : {1, 7, 8, 9, 16, 24, 37, 48, 112})
        for (const std::int64_t k : {0, 1, 12, 256, 300}) {
          const at::Tensor a = normal({m, k}, 1), w = normal({n, k}, 2), bias = normal({n}, 3);
          const at::Tensor exact = at::matmul(a.to(at::kDouble), w.to(at::kDouble).t());
          kernels::Packed packed;
          kernels::pack(packed, w.data_ptr<float>(), k, n, 1, k);
          at::Tensor c = at::full({m, n}, 7.f);
          table->gemm_packed(m, a.data_ptr<float>(), k, 1, packed, 0, n, c.data_ptr<float>(), n, alpha,
                             bias.data_ptr<float>(), false);
          INFO(table->name << " m " << m << " n " << n << " k " << k);
          REQUIRE(test::gap(c.to(at::kDouble), exact * static_cast<double>(alpha) + bias) < 1e-4);
          // A row alone gives the same bits.
          at::Tensor last = at::full({1, n}, 7.f);
          table->gemm_packed(1, a.data_ptr<float>() + (m - 1) * k, k, 1, packed, 0, n, last.data_ptr<float>(), n, alpha,
                             bias.data_ptr<float>(), false);
          REQUIRE(test::same_bits(last, c.narrow(0, m - 1, 1)));
          // Columns in two goes give the same bits, and leave the others alone.
          if (n > kernels::panel) {
            at::Tensor halves = at::full({m, n}, 7.f);
            table->gemm_packed(m, a.data_ptr<float>(), k, 1, packed, kernels::panel, n, halves.data_ptr<float>(), n, alpha,
                               bias.data_ptr<float>(), false);
            REQUIRE(halves.narrow(1, 0, kernels::panel).eq(7.f).all().item<bool>());
            table->gemm_packed(m, a.data_ptr<float>(), k, 1, packed, 0, kernels::panel, halves.data_ptr<float>(), n, alpha,
                               bias.data_ptr<float>(), false);
            REQUIRE(test::same_bits(halves, c));
          }
          // Unpacked, with A read down its columns, and added to what is there.
          const at::Tensor wt = w.t().contiguous(), at_ = a.t().contiguous();
          at::Tensor added = at::full({m, n}, 2.f);
          table->gemm(m, n, k, at_.data_ptr<float>(), 1, m, wt.data_ptr<float>(), n, added.data_ptr<float>(), n, 1.f,
                      true);
          REQUIRE(test::gap(added.to(at::kDouble), exact + 2.0) < 1e-4);
          at::Tensor alone = at::full({1, n}, 2.f);
          table->gemm(1, n, k, at_.data_ptr<float>() + m - 1, 1, m, wt.data_ptr<float>(), n, alone.data_ptr<float>(), n, 1.f,
                      true);
          REQUIRE(test::same_bits(alone, added.narrow(0, m - 1, 1)));
          if (table == &kernels::portable() || table == &kernels::avx2()) continue;
          at::Tensor narrow = at::full({m, n}, 7.f), narrow_added = at::full({m, n}, 2.f);
          kernels::avx2().gemm_packed(m, a.data_ptr<float>(), k, 1, packed, 0, n, narrow.data_ptr<float>(), n, alpha,
                                      bias.data_ptr<float>(), false);
          kernels::avx2().gemm(m, n, k, at_.data_ptr<float>(), 1, m, wt.data_ptr<float>(), n, narrow_added.data_ptr<float>(),
                               n, 1.f, true);
          REQUIRE(test::same_bits(narrow, c));
          REQUIRE(test::same_bits(narrow_added, added));
        }
  }
}

TEST_CASE("the distribution of a row of logits") {
  for (const std::int64_t v : {1, 7, 8, 61, 512}) {
    const at::Tensor z = normal({v}, 5) * 4;
    at::Tensor p = z.clone();
    float largest = 0, log_sum = 0, entropy = 0;
    kernels::active().distribution(v, p.data_ptr<float>(), 0.5f, &largest, &log_sum, &entropy);
    const at::Tensor exact = at::log_softmax(z.to(at::kDouble) * 0.5, 0);
    CHECK(test::gap(p.to(at::kDouble), exact.exp()) < 1e-6);
    CHECK(test::gap((z.to(at::kDouble) * 0.5 - largest) - log_sum, exact) < 2e-6);
    CHECK(entropy == Approx(-(exact * exact.exp()).sum().item<double>()).margin(1e-5));
  }
  at::Tensor broken = at::tensor({1.f, NAN, 2.f});
  float largest = 0, log_sum = 0;
  kernels::active().distribution(3, broken.data_ptr<float>(), 1.f, &largest, &log_sum, nullptr);
  CHECK(!std::isfinite(log_sum));
}

TEST_CASE("silu at the ends of its range") {
  const at::Tensor gate = at::tensor({-1e30f, -200.f, -88.5f, -1.f, 0.f, 1.f, 88.5f, 200.f, 1e30f, NAN});
  const at::Tensor y = swiglu(gate, at::ones_like(gate));
  const at::Tensor expected = at::silu(gate.to(at::kDouble));
  for (std::int64_t i = 0; i < 9; ++i)
    CHECK(y[i].item<double>() == Approx(expected[i].item<double>()).epsilon(1e-6).margin(1e-6));
  CHECK(std::isnan(y[9].item<float>()));
}

TEST_CASE("RMS norm: value and gradients") {
  for (const std::int64_t d : {6, 48, 96})
    CHECK(gradient_gap({normal({9, d}, 1), normal({d}, 2)},
                       [](const auto& in) { return rms_norm(in[0], in[1], 1e-6); },
                       [](const auto& in) {
                         return in[0] * at::rsqrt(in[0].pow(2).mean(-1, true) + 1e-6) * in[1];
                       }) < 1e-5);
}

TEST_CASE("SwiGLU: value and gradients") {
  CHECK(gradient_gap({normal({5, 21}, 1) * 3, normal({5, 21}, 2)},
                     [](const auto& in) { return swiglu(in[0], in[1]); },
                     [](const auto& in) { return at::silu(in[0]) * in[1]; }) < 1e-5);
}

TEST_CASE("rotation: value and gradient") {
  Rope rope(12, 10000, {});
  rope.cover(300);
  const auto positions = std::make_shared<const std::vector<std::int32_t>>(std::vector<std::int32_t>{0, 5, 299});
  CHECK(gradient_gap({normal({3, 24}, 1)}, [&](const auto& in) { return rotate(in[0], 2, rope, positions); },
                     [](const auto& in) {
                       const at::Tensor f = at::pow(10000.0, -at::arange(0, 12, 2, at::kDouble) / 12);
                       const at::Tensor angle = at::tensor({0., 5., 299.}, at::kDouble).unsqueeze(1) * f;
                       const at::Tensor c = angle.cos().unsqueeze(1), s = angle.sin().unsqueeze(1);
                       const at::Tensor x = in[0].view({3, 2, 12});
                       const at::Tensor a = x.narrow(2, 0, 6), b = x.narrow(2, 6, 6);
                       return at::cat({a * c - b * s, b * c + a * s}, 2).reshape({3, 24});
                     }) < 2e-5);
}

// Narrow layers are computed with the adapter in the weight, wide ones with it beside it.
TEST_CASE("linear with LoRA: value and all gradients") {
  const auto [in_size, out, merged] = GENERATE(table<std::int64_t, std::int64_t, bool>({{20, 33, true}, {90, 97, false}}));
  CHECK(Merged::pays(Matrix(normal({out, in_size}, 1)), Matrix(normal({5, in_size}, 1)), Matrix(normal({out, 5}, 1))) == merged);
  for (const std::int64_t m : {1, 7, 300}) {
    const Function reference = [](const auto& in) {
      return at::linear(in[0], in[1], in[2]) + at::linear(at::linear(in[0], in[3]), in[4]) * 2.0;
    };
    const Function ours = [](const auto& in) {
      Matrix weight(in[1]);
      LoraPair lora{Matrix(in[3]), Matrix(in[4]), 2.f};
      return linear(in[0], weight, in[2], &lora);
    };
    const Function apart = [](const auto& in) {
      Matrix weight(in[1]);
      LoraPair lora{Matrix(in[3]), Matrix(in[4]), 2.f};
      return linear(in[0], weight, in[2], nullptr) + low_rank(in[0], lora);
    };
    const std::vector<at::Tensor> inputs{normal({m, in_size}, 1), normal({out, in_size}, 2), normal({out}, 3),
                                         normal({5, in_size}, 4), normal({out, 5}, 5)};
    CHECK(gradient_gap(inputs, ours, reference) < 2e-5);
    CHECK(gradient_gap(inputs, apart, reference) < 2e-5);
  }
}

TEST_CASE("a merged weight follows what it is made of, and a graph keeps the one it was made with") {
  const at::Tensor x = leaf(normal({9, 20}, 1));
  Matrix weight(normal({33, 20}, 2)), other(normal({33, 20}, 3));
  LoraPair lora{Matrix(normal({5, 20}, 4)), Matrix(normal({33, 5}, 5)), 2.f};
  const auto expected = [&](const Matrix& w) {
    return at::linear(x.detach(), w.value() + at::mm(lora.b.value(), lora.a.value()) * 2.0);
  };
  const auto gap = [&](Matrix& w) { return test::gap(linear(x, w, {}, &lora).detach(), expected(w)); };
  const at::Tensor before = linear(x, weight, {}, &lora);
  const at::Tensor slope = at::mm(at::ones({9, 33}), weight.value() + at::mm(lora.b.value(), lora.a.value()) * 2.0);
  CHECK(gap(weight) < 1e-4);
  CHECK(gap(other) < 1e-4);
  CHECK(gap(weight) < 1e-4);
  at::Tensor(lora.a.value()).mutable_data_ptr<float>()[3] += 1.f;  // without LibTorch noticing
  lora.refresh();
  CHECK(gap(weight) < 1e-4);
  at::Tensor(lora.b.value()).mutable_data_ptr<float>()[8] -= 1.f;
  lora.refresh();
  CHECK(gap(weight) < 1e-4);
  at::Tensor(weight.value()).mul_(2.0);
  CHECK(gap(weight) < 1e-4);
  CHECK(test::gap(torch::autograd::grad({before.sum()}, {x})[0], slope) < 1e-4);
}

TEST_CASE("the rows of a gradient that are not zero") {
  at::Tensor dy = at::zeros({40, 3}, at::kFloat);
  dy[2][1] = 1.f;
  dy[8][2] = -1.f;  // five rows on: together with the first
  dy[30][0] = 1e-40f;
  dy[35][0] = -0.f;
  const LiveRows live(dy);
  REQUIRE(live.pieces().size() == 2);
  CHECK((live.pieces()[0].begin == 2 && live.pieces()[0].end == 9));
  CHECK((live.pieces()[1].begin == 30 && live.pieces()[1].end == 31));
  CHECK_FALSE(live.all());
  CHECK(live.starts(16) == std::vector<std::int64_t>{0, 7, 7 + 1, 8});
  CHECK(live.starts(4) == std::vector<std::int64_t>{0, 2, 6, 7, 7, 7, 7, 7, 8, 8, 8});
  const at::Tensor numbers = at::arange(120, at::kFloat).view({40, 3});
  CHECK(at::equal(live.gather(numbers), at::cat({numbers.narrow(0, 2, 7), numbers.narrow(0, 30, 1)})));
  at::Tensor cleared = numbers.clone();
  live.clear_others(cleared);
  CHECK(cleared.sum().item<float>() == (numbers.narrow(0, 2, 7).sum() + numbers.narrow(0, 30, 1).sum()).item<float>());
  const LiveRows whole(numbers + 1);
  CHECK(whole.all());
  CHECK(whole.gather(numbers).is_same(numbers));
  CHECK(LiveRows(at::zeros({3, 2}, at::kFloat)).pieces().empty());
  CHECK(LiveRows(at::zeros({0, 2}, at::kFloat)).starts(16) == std::vector<std::int64_t>{0});
}

TEST_CASE("pieces of rows are shared out: each row once, and how many stand in front of it") {
  const std::vector<RowPiece> pieces{{3, 5}, {9, 10}, {20, 700}, {702, 703}};
  std::vector<std::int64_t> place(710, -1);
  const auto grain = GENERATE(1, 100, 1000);
  over_pieces(pieces, grain, [&](RowPiece piece, std::int64_t before) {  // no row is two threads'
    for (std::int64_t r = piece.begin; r < piece.end; ++r) place[static_cast<std::size_t>(r)] += 1 + before + r - piece.begin;
  });
  std::int64_t before = 0;
  for (std::int64_t r = 0; r < 710; ++r) {
    const bool among = std::any_of(pieces.begin(), pieces.end(), [&](RowPiece piece) { return piece.begin <= r && r < piece.end; });
    REQUIRE(place[static_cast<std::size_t>(r)] == (among ? before++ : -1));
  }
  CHECK(before == count_rows(pieces));
  over_pieces({}, 1, [](RowPiece, std::int64_t) { FAIL("there are no rows"); });
}

// Against the products over all rows, which add the zeros: not a bit differs.
TEST_CASE("rows without a gradient are left out, and the bits stay") {
  constexpr std::int64_t m = 700, in = 20, out = 33, rank = 5;
  const at::Tensor x = leaf(normal({m, in}, 1)), w = leaf(normal({out, in}, 2)), a = leaf(normal({rank, in}, 3)),
                   b = leaf(normal({out, rank}, 4));
  at::Tensor dy = normal({m, out}, 5);
  const auto dead = GENERATE(std::vector<std::pair<int, int>>{{0, 300}, {310, 13}, {400, 3}, {650, 50}},
                             std::vector<std::pair<int, int>>{{250, 300}}, std::vector<std::pair<int, int>>{{0, 700}});
  for (const auto& [from, count] : dead) dy.narrow(0, from, count).zero_();
  Matrix weight(w);
  LoraPair lora{Matrix(a), Matrix(b), 2.f};
  const auto got = torch::autograd::grad({linear(x, weight, {}, &lora)}, {x, w, a, b}, {dy});
  const auto& kernel = kernels::active();
  const auto outer = [&](const at::Tensor& u, const at::Tensor& v, float alpha) {
    at::Tensor sum = at::empty({u.size(1), v.size(1)}, at::kFloat);
    kernel.gemm(u.size(1), v.size(1), m, u.const_data_ptr<float>(), 1, u.size(1), v.const_data_ptr<float>(), v.size(1),
                sum.mutable_data_ptr<float>(), v.size(1), alpha, false);
    return sum;
  };
  const auto times = [&](const at::Tensor& u, const at::Tensor& v, float alpha) {  // u·v
    at::Tensor product = at::empty({m, v.size(1)}, at::kFloat);
    kernel.gemm(m, v.size(1), v.size(0), u.const_data_ptr<float>(), u.size(1), 1, v.const_data_ptr<float>(), v.size(1),
                product.mutable_data_ptr<float>(), v.size(1), alpha, false);
    return product;
  };
  CHECK(test::same_bits(got[0], times(dy, lora.merged.of(weight, lora.a, lora.b, 2.f).value(), 1.f)));
  CHECK(test::same_bits(got[1], outer(dy, x.detach(), 1.f)));
  CHECK(test::same_bits(got[2], outer(times(dy, b.detach(), 2.f), x.detach(), 1.f)));
  CHECK(test::same_bits(got[3], outer(dy, times(x.detach(), a.detach().t().contiguous(), 1.f), 2.f)));
}

TEST_CASE("attention behind shared prompts: value and all gradients") {
  const Heads heads{4, 2, 12};
  const std::vector<std::int64_t> prompts{17, 3}, start{0, 17}, of_row{1, 0, 1, 0}, lengths{5, 18, 0, 1};
  const auto layout = Layout::behind(start, prompts, of_row, lengths);
  const Function ours = [&](const auto& in) { return attention(in[0], in[1], in[2], in[3], in[4], layout, heads); };
  const Function reference = [&](const auto& in) {
    std::vector<at::Tensor> rows;
    std::int64_t before = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const auto p = static_cast<std::size_t>(of_row[i]);
      const std::int64_t n = lengths[i], all = prompts[p] + n;
      const auto split = [&](const at::Tensor& t, std::int64_t h) { return t.reshape({-1, h, 12}).transpose(0, 1); };
      const auto with_prompt = [&](const at::Tensor& prompt, const at::Tensor& own) {
        return split(at::cat({prompt.narrow(0, start[p], prompts[p]), own.narrow(0, before, n)}), 2).repeat_interleave(2, 0);
      };
      const at::Tensor q = split(in[0].narrow(0, before, n), 4), k = with_prompt(in[3], in[1]), v = with_prompt(in[4], in[2]);
      const at::Tensor hidden = at::ones({n, all}, at::kBool).tril(all - n).logical_not();
      const at::Tensor weights =
          at::softmax((at::matmul(q, k.transpose(1, 2)) / std::sqrt(12.0)).masked_fill(hidden, -INFINITY), -1);
      rows.push_back(at::matmul(weights, v).transpose(0, 1).reshape({n, 48}));
      before += n;
    }
    return at::cat(rows);
  };
  const std::vector<at::Tensor> inputs{normal({24, 48}, 1), normal({24, 24}, 2), normal({24, 24}, 3), normal({20, 24}, 4),
                                       normal({20, 24}, 5)};
  CHECK(gradient_gap(inputs, ours, reference) < 2e-5);
  for (const auto& [from, count] : {std::pair<int, int>{5, 18}, {0, 5}, {23, 1}}) {  // each row in turn without a gradient
    at::Tensor on = at::ones({24, 1}, at::kFloat);
    on.narrow(0, from, count).zero_();
    CHECK(gradient_gap(inputs, [&](const auto& in) { return ours(in) * on; }, [&](const auto& in) { return reference(in) * on; }) <
          2e-5);
  }
}

TEST_CASE("log-probs and entropy with gradients of their own, to a trainable head as well") {
  // More rows than one chunk holds: the head's gradient is a sum over chunks.
  const std::int64_t rows = 1000;
  const at::Tensor targets = at::randint(0, 61, {rows}, test::generator(3), at::kLong), factor = normal({rows}, 5);
  const auto exact = [&](const at::Tensor& hidden, const at::Tensor& head) {
    const at::Tensor all = at::log_softmax(at::matmul(hidden, head.t()) / 0.7, -1);
    return at::cat({all.gather(1, targets.unsqueeze(1)).squeeze(1), -(all * all.exp()).sum(-1) * factor.to(at::kDouble)});
  };
  const auto ours = [&](const at::Tensor& hidden, const at::Tensor& head) {
    Matrix matrix(head);
    const Scores scores = score_tokens(hidden, matrix, targets, 0.7, /*entropy_gradient=*/true);
    return at::cat({scores.logprobs, scores.entropy * factor});
  };
  CHECK(gradient_gap({normal({rows, 24}, 1), normal({61, 24}, 2)}, [&](const auto& in) { return ours(in[0], in[1]); },
                     [&](const auto& in) { return exact(in[0], in[1]); }) < 3e-5);
  const at::Tensor head = normal({61, 24}, 2);
  CHECK(gradient_gap({normal({rows, 24}, 1)}, [&](const auto& in) { return ours(in[0], head); },
                     [&](const auto& in) { return exact(in[0], head.to(at::kDouble)); }) < 3e-5);
}

TEST_CASE("log-probs of chosen tokens: value, entropy and gradient") {
  const at::Tensor head = normal({61, 24}, 2), targets = at::randint(0, 61, {40}, test::generator(3), at::kLong);
  at::Tensor entropy;
  CHECK(gradient_gap({normal({40, 24}, 1)},
                     [&](const auto& in) {
                       Matrix matrix(head);
                       const Scores scores = score_tokens(in[0], matrix, targets, 0.7);
                       entropy = scores.entropy;
                       return scores.logprobs;
                     },
                     [&](const auto& in) {
                       return at::log_softmax(at::matmul(in[0], head.to(at::kDouble).t()) / 0.7, -1)
                           .gather(1, targets.unsqueeze(1))
                           .squeeze(1);
                     }) < 2e-5);
  const at::Tensor exact = at::log_softmax(at::matmul(normal({40, 24}, 1), head.t()).to(at::kDouble) / 0.7, -1);
  CHECK(test::gap(entropy.to(at::kDouble), -(exact * exact.exp()).sum(-1)) < 1e-4);
  CHECK(!entropy.requires_grad());
}
