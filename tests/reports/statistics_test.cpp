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
