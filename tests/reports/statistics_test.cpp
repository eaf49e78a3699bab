#include <cmath>
#include <random>

#include "catch.h"
#include "reports/statistics.h"

using namespace assay::report;

namespace {

// P(X <= k), X ~ Binomial(n, 1/2), by adding up the terms: exact to rounding, and nothing of Boost's.
double tail(std::int64_t k, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i <= k; ++i)
    sum += std::exp(std::lgamma(static_cast<double>(n) + 1) - std::lgamma(static_cast<double>(i) + 1) -
                    std::lgamma(static_cast<double>(n - i) + 1) - static_cast<double>(n) * std::log(2.0));
  return sum;
}

}  // namespace

TEST_CASE("Wilson intervals as worked out by hand") {
  // k = 5, n = 10, z = 1.959963984540054: middle .5, half width .263406...
  const Interval half = wilson(5, 10);
  CHECK(half.low == Approx(0.236593090512564).margin(1e-12));
  CHECK(half.high == Approx(0.763406909487436).margin(1e-12));
  // k = 0: [0, z^2 / (n + z^2)]
  const double z2 = 1.959963984540054 * 1.959963984540054;
  CHECK(wilson(0, 20).low == 0);
  CHECK(wilson(0, 20).high == Approx(z2 / (20 + z2)).margin(1e-12));
  CHECK(wilson(20, 20).high == 1);
  CHECK(wilson(0, 0).low == 0);
  CHECK(wilson(0, 0).high == 1);
}

TEST_CASE("Wilson intervals: bounds, symmetry, monotonicity") {
  for (const std::int64_t n : {1, 2, 3, 10, 97, 1024, 1319}) {
    Interval before{-1, -1};
    for (std::int64_t k = 0; k <= n; ++k) {
      const Interval interval = wilson(k, n);
      const double share = static_cast<double>(k) / static_cast<double>(n);
      CHECK(0 <= interval.low);
      CHECK(interval.low <= share);
      CHECK(share <= interval.high);
      CHECK(interval.high <= 1);
      CHECK(interval.low > before.low);
      CHECK(interval.high > before.high);
      const Interval mirrored = wilson(n - k, n);
      CHECK(interval.low == Approx(1 - mirrored.high).margin(1e-12));
      const Interval wider = wilson(k, n, 0.99), narrower = wilson(k, n, 0.9);
      CHECK(wider.high - wider.low >= interval.high - interval.low);
      CHECK(narrower.high - narrower.low <= interval.high - interval.low);
      before = interval;
    }
  }
  CHECK(wilson(500, 1000).high - wilson(500, 1000).low < wilson(50, 100).high - wilson(50, 100).low);
}

TEST_CASE("exact McNemar against plain sums") {
  CHECK(mcnemar_exact(0, 0) == 1);
  CHECK(mcnemar_exact(7, 7) == 1);
  CHECK(mcnemar_exact(0, 1) == 1);
  CHECK(mcnemar_exact(0, 5) == Approx(0.0625).margin(1e-14));
  CHECK(mcnemar_exact(1, 9) == Approx(22.0 / 1024).margin(1e-14));
  for (std::int64_t b = 0; b <= 30; ++b)
    for (std::int64_t c = 0; c <= 30; ++c) {
      const double p = mcnemar_exact(b, c);
      CHECK(p == mcnemar_exact(c, b));
      CHECK(p > 0);
      CHECK(p <= 1);
      if (b != c) CHECK(p == Approx(std::min(1.0, 2 * tail(std::min(b, c), b + c))).margin(1e-12));
      // More discordant pairs on the side that already has more: never less evidence.
      if (c >= b) CHECK(mcnemar_exact(b, c + 1) <= p + 1e-12);
    }
}

TEST_CASE("exact McNemar far out stays a positive number until it is none") {
  CHECK(mcnemar_exact(0, 1000) == Approx(std::pow(2.0, -999)).epsilon(1e-9));
  CHECK(mcnemar_exact(0, 5000) == 0);  // 2^-4999 is below the smallest double
  CHECK(mcnemar_exact(499'000, 501'000) == Approx(0.0456).margin(1e-3));  // the normal approximation's 2 sigma
}

TEST_CASE("pairs are counted, and swapping the runs swaps the counts") {
  const Paired counts = paired({true, true, false, false, true}, {true, false, true, false, false});
  CHECK(counts.both == 1);
  CHECK(counts.first_only == 2);
  CHECK(counts.second_only == 1);
  CHECK(counts.neither == 1);
  CHECK(counts.p == mcnemar_exact(2, 1));
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<bool> a(random() % 200), b(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] = random() % 3 == 0;
      b[i] = random() % 2 == 0;
    }
    const Paired there = paired(a, b), back = paired(b, a);
    CHECK(there.first_only == back.second_only);
    CHECK(there.both == back.both);
    CHECK(there.p == back.p);
    CHECK(static_cast<std::size_t>(there.both + there.first_only + there.second_only + there.neither) == a.size());
    CHECK(paired(a, a).p == 1);
  }
  CHECK_THROWS_AS(paired({true}, {}), std::invalid_argument);
  CHECK(paired({}, {}).p == 1);
}

TEST_CASE("two proportions and Fisher on the published counts") {
  // e13a-mxfp4/e13a-nvfp4, e13b, e13c, e13f of 1319: z tests as worked out by hand.
  CHECK(two_proportions(98, 1319, 119, 1319) == Approx(0.1368).margin(2e-4));
  CHECK(two_proportions(119, 1319, 110, 1319) == Approx(0.5337).margin(2e-4));
  CHECK(two_proportions(119, 1319, 137, 1319) == Approx(0.2364).margin(2e-4));
  CHECK(two_proportions(119, 1319, 119, 1319) == 1);
  CHECK(two_proportions(0, 10, 0, 10) == 1);
  CHECK(two_proportions(137, 1319, 803, 1319) < 1e-100);
  // The tea-tasting table: 3 of 4 against 1 of 4.
  CHECK(fisher_exact(3, 4, 1, 4) == Approx(34.0 / 70).margin(1e-12));
  CHECK(fisher_exact(0, 5, 5, 5) == Approx(2.0 / 252).margin(1e-12));
  CHECK(unpaired(3, 4, 1, 4).fisher);
  CHECK_FALSE(unpaired(98, 1319, 119, 1319).fisher);
}

TEST_CASE("intervals of a difference hold it, mirror, and narrow with n") {
  std::mt19937 random(11);
  const auto pick = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(n)); };
  for (int round = 0; round < 300; ++round) {
    const std::int64_t n = 1 + pick(2000), b = pick(n + 1), c = pick(n - b + 1);
    const double seen = static_cast<double>(c - b) / static_cast<double>(n);
    const Interval interval = paired_difference(b, c, n), mirrored = paired_difference(c, b, n);
    CHECK(interval.low <= seen + 1e-12);
    CHECK(seen - 1e-12 <= interval.high);
    CHECK(-1 <= interval.low);
    CHECK(interval.high <= 1);
    CHECK(interval.low == Approx(-mirrored.high).margin(1e-9));
    const std::int64_t k1 = pick(n + 1), k2 = pick(n + 1);
    const Interval apart = newcombe(k1, n, k2, n), back = newcombe(k2, n, k1, n);
    CHECK(apart.low == Approx(-back.high).margin(1e-12));
    CHECK(apart.low <= static_cast<double>(k2 - k1) / static_cast<double>(n));
    CHECK(newcombe(10 * k1, 10 * n, 10 * k2, 10 * n).high <= apart.high + 1e-12);
  }
  const double z2 = 1.959963984540054 * 1.959963984540054;
  CHECK(paired_difference(0, 0, 1024).high == Approx(z2 / (1024 + z2)).margin(1e-9));
  CHECK(paired_difference(0, 0, 1024).low == Approx(-z2 / (1024 + z2)).margin(1e-9));
  // It and McNemar without continuity agree on zero: (c - b)^2 / (b + c) = z^2.
  CHECK(paired_difference(10, 23, 500).low > 0);
  CHECK(paired_difference(10, 20, 500).low < 0);
}

TEST_CASE("seeds: mean, t interval and test") {
  const Mean mean = mean_of({85.8, 84.2, 88.1});
  CHECK(mean.mean == Approx(86.0333333).margin(1e-6));
  CHECK(mean.deviation == Approx(1.960442).margin(1e-5));
  CHECK(mean.interval->low == Approx(86.0333333 - 4.302653 * 1.960442 / std::sqrt(3.0)).margin(1e-4));
  CHECK_FALSE(mean_of({3}).interval);
  CHECK_FALSE(mean_of({3}).p);
  CHECK(*mean_of({0, 0, 0}).p == 1);
  CHECK(*mean_of({2, 2}).p == 0);
  CHECK(mean_of({}).mean == 0);
}

TEST_CASE("Holm against a worked example, and never below the p it came from") {
  const std::vector<double> adjusted = holm({0.01, 0.04, 0.03, 0.005});
  CHECK(adjusted[3] == Approx(0.02));
  CHECK(adjusted[0] == Approx(0.03));
  CHECK(adjusted[2] == Approx(0.06));
  CHECK(adjusted[1] == Approx(0.06));
  CHECK(holm({}).empty());
  CHECK(holm({0.9, 0.8}) == std::vector<double>{1, 1});
}

TEST_CASE("the spread of counts against chance") {
  const Spread published = spread({107, 100, 103, 100, 112, 101, 108, 107, 101}, 1319);  // step 0 of the nine runs
  CHECK(published.deviation == Approx(4.3).margin(0.05));
  CHECK(published.chance == Approx(9.8).margin(0.1));
  CHECK(published.p > 0.98);
  CHECK(spread({100, 300}, 1000).p < 1e-20);
  CHECK(spread({5}, 10).p == 1);
  CHECK(spread({0, 0}, 10).p == 1);
}

TEST_CASE("what can be seen, and what it takes") {
  const auto small = detectable(0.08, 1319), large = detectable(0.08, 13190);
  REQUIRE(small);
  REQUIRE(large);
  CHECK(power(0.08, *small, 1319) == Approx(0.8).margin(1e-9));
  CHECK(*large < *small);
  CHECK(*small == Approx(0.0317).margin(5e-4));
  CHECK_FALSE(detectable(0.999, 5));
  CHECK(problems_to_rule_out(1, 8, 1000, 5) == 4000);
  CHECK_FALSE(problems_to_rule_out(6, 1, 1000, 5));
  CHECK(seeds_to_rule_out(0, 0, 5) == 2);
  const auto seeds = seeds_to_rule_out(1, 3, 5);
  REQUIRE(seeds);
  CHECK(*seeds == 5);   // t(4) = 2.776: 2.776 * 3 / sqrt(5) = 3.72 <= 4; four seeds: 4.77
  CHECK_FALSE(seeds_to_rule_out(5, 3, 5));
  // By R: t = 51.5 / (8.9 / sqrt(3)) has p = .0098 with 2 degrees of freedom, and .0014 with one seed more.
  CHECK(seeds_to_show(51.5, 8.9, 1) == 3);
  CHECK(seeds_to_show(51.5, 8.9, 6) == 4);
  CHECK(seeds_to_show(-51.5, 8.9, 6) == 4);
  CHECK_FALSE(seeds_to_show(0, 8.9, 1));
}
