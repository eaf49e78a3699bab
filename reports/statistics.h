// Intervals and tests on accuracies. Boost.Math underneath; equal to scipy/statsmodels (tests/parity). Shares, not
// percent, unless it is said. Preconditions are asserted: 0 <= k <= n.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace assay::report {

struct Interval {
  double low = 0, high = 0;
};

// Wilson score interval of k successes in n, as shares. n = 0 gives [0, 1].
Interval wilson(std::int64_t k, std::int64_t n, double confidence = 0.95);

// ---- two runs on the same test problems ----

// Exact two-sided McNemar test on paired outcomes: b problems only the first got right, c only the second.
// p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2); b + c = 0 gives 1.
double mcnemar_exact(std::int64_t b, std::int64_t c);

struct Paired {
  std::int64_t both = 0, first_only = 0, second_only = 0, neither = 0;
  double p = 1;
};
// Outcomes of two runs on the same problems in the same order; throws std::invalid_argument on different sizes.
Paired paired(const std::vector<bool>& first, const std::vector<bool>& second);

// Score interval of the difference (second - first) of paired shares (Tango, Statistics in Medicine 17 (1998) 891):
// b, c as above of n problems. Also where b = c = 0 it has a width: +- z^2 / (n + z^2).
Interval paired_difference(std::int64_t b, std::int64_t c, std::int64_t n, double confidence = 0.95);

// ---- two runs whose problems cannot be paired ----

// Two-sided z test of two proportions with the pooled variance; k = 0 or k = n in both gives 1.
double two_proportions(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2);
// Fisher's exact test, two-sided: all tables that are no likelier than the one seen.
double fisher_exact(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2);
// Which of the two: Fisher where an expected count is below 5.
struct Unpaired {
  double p = 1;
  bool fisher = false;
};
Unpaired unpaired(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2);
// Newcombe's hybrid score interval (method 10) of k2/n2 - k1/n1.
Interval newcombe(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2, double confidence = 0.95);

// Chi-square test that several counts of n each come of one share; fewer than two counts or no variance gives 1.
struct Spread {
  double chi_square = 0, p = 1;
  double deviation = 0, chance = 0;   // standard deviation of the counts, and what n problems drawn anew would give
};
Spread spread(const std::vector<std::int64_t>& counts, std::int64_t n);

// ---- several seeds ----

struct Mean {
  double mean = 0, deviation = 0;     // deviation: unbiased standard deviation; 0 with one value
  std::optional<Interval> interval;   // by Student's t; nothing with one value
  std::optional<double> p;            // t test of mean = 0; nothing with one value. No spread: 1 if the mean is 0, else 0
};
Mean mean_of(const std::vector<double>& values, double confidence = 0.95);

// ---- many comparisons ----

// Holm's step-down adjustment, in the order given.
std::vector<double> holm(const std::vector<double>& p);

// ---- what could have been seen ----

// Chance that the two-sided two-proportion z test sees shares `base` and `base + difference` apart, n problems each.
double power(double base, double difference, std::int64_t n, double alpha = 0.05);
// The smallest increase over `base` that the test sees with that power on n problems each; nothing when there is none.
std::optional<double> detectable(double base, std::int64_t n, double alpha = 0.05, double power = 0.8);
// Problems that an interval of half width `half` on n problems needs so that +-reach about `difference` stays within
// +-margin, its width falling with the root of n; nothing when the difference itself lies outside.
std::optional<std::int64_t> problems_to_rule_out(double difference, double half, std::int64_t n, double margin);
// The same with seeds whose differences have this standard deviation, up to 1000; nothing when there is no such number.
std::optional<std::int64_t> seeds_to_rule_out(double difference, double deviation, double margin, double confidence = 0.95);
// Seeds with differences of this mean and standard deviation whose t test, its p times `factor` (Holm's), lies below alpha,
// up to 1000; nothing when there is no such number.
std::optional<std::int64_t> seeds_to_show(double difference, double deviation, double factor, double alpha = 0.05);

}  // namespace assay::report
