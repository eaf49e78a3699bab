// Intervals and tests on accuracies. Boost.Math underneath; equal to scipy/statsmodels (tests/parity).
#pragma once

#include <cstdint>
#include <vector>

namespace assay::report {

struct Interval {
  double low = 0, high = 0;
};

// Wilson score interval of k successes in n, as shares. n = 0 gives [0, 1].
Interval wilson(std::int64_t k, std::int64_t n, double confidence = 0.95);

// Exact two-sided McNemar test on paired outcomes: b problems only the first got right, c only the second.
// p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2); b + c = 0 gives 1.
double mcnemar_exact(std::int64_t b, std::int64_t c);

struct Paired {
  std::int64_t both = 0, first_only = 0, second_only = 0, neither = 0;
  double p = 1;
};
// Outcomes of two runs on the same problems in the same order; throws std::invalid_argument on different sizes.
Paired paired(const std::vector<bool>& first, const std::vector<bool>& second);

}  // namespace assay::report
