#include "reports/statistics.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/chi_squared.hpp>
#include <boost/math/distributions/hypergeometric.hpp>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cassert>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace assay::report {
namespace {

double share(std::int64_t k, std::int64_t n) { return static_cast<double>(k) / static_cast<double>(n); }

double z_of(double confidence) {
  assert(0 < confidence && confidence < 1);
  return boost::math::quantile(boost::math::normal(), 0.5 + confidence / 2);
}

double upper_tail(double z) { return boost::math::cdf(boost::math::complement(boost::math::normal(), z)); }

// Tango's statistic for the difference `delta`: falls as delta grows.
double tango(double c, double b, double n, double delta) {
  const double quadratic = 2 * n, linear = -c - b + (2 * n - c + b) * delta, constant = -b * delta * (1 - delta);
  const double q = (std::sqrt(std::max(0.0, linear * linear - 4 * quadratic * constant)) - linear) / (2 * quadratic);
  const double variance = n * (2 * q + delta * (1 - delta));
  const double distance = c - b - n * delta;
  if (variance <= 0) return distance == 0 ? 0 : std::copysign(HUGE_VAL, distance);
  return distance / std::sqrt(variance);
}

// Where a falling function crosses `level` between low and high.
template <typename Function>
double crossing(Function function, double level, double low, double high) {
  for (int i = 0; i < 200 && high - low > 0; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    (function(middle) > level ? low : high) = middle;
  }
  return low + (high - low) / 2;
}

}  // namespace

Interval wilson(std::int64_t k, std::int64_t n, double confidence) {
  assert(0 <= k && k <= n);
  if (n == 0) return {0, 1};
  const double z = z_of(confidence);
  const double total = static_cast<double>(n), rate = share(k, n);
  const double denominator = 1 + z * z / total;
  const double middle = (rate + z * z / (2 * total)) / denominator;
  const double half = z * std::sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / denominator;
  // At k = 0 and k = n the bound is exactly 0 or 1; rounding would leave it a hair beside.
  return {k == 0 ? 0 : std::max(0.0, middle - half), k == n ? 1 : std::min(1.0, middle + half)};
}

double mcnemar_exact(std::int64_t b, std::int64_t c) {
  assert(b >= 0 && c >= 0);
  if (b == c) return 1;  // also b + c = 0; P(X <= n/2) is at least one half
  const boost::math::binomial distribution(static_cast<double>(b + c), 0.5);
  return std::min(1.0, 2 * boost::math::cdf(distribution, static_cast<double>(std::min(b, c))));
}

Paired paired(const std::vector<bool>& first, const std::vector<bool>& second) {
  if (first.size() != second.size())
    throw std::invalid_argument("paired outcomes of " + std::to_string(first.size()) + " and " +
                                std::to_string(second.size()) + " problems");
  Paired counts;
  for (std::size_t i = 0; i < first.size(); ++i) {
    if (first[i]) ++(second[i] ? counts.both : counts.first_only);
    else ++(second[i] ? counts.second_only : counts.neither);
  }
  counts.p = mcnemar_exact(counts.first_only, counts.second_only);
  return counts;
}

Interval paired_difference(std::int64_t b, std::int64_t c, std::int64_t n, double confidence) {
  assert(b >= 0 && c >= 0 && b + c <= n);
  if (n == 0) return {-1, 1};
  const double z = z_of(confidence);
  const auto statistic = [&](double delta) {
    return tango(static_cast<double>(c), static_cast<double>(b), static_cast<double>(n), delta);
  };
  const double seen = static_cast<double>(c - b) / static_cast<double>(n);
  return {b == n ? -1 : crossing(statistic, z, -1, seen), c == n ? 1 : crossing(statistic, -z, seen, 1)};
}

double two_proportions(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2) {
  assert(0 <= k1 && k1 <= n1 && 0 <= k2 && k2 <= n2);
  if (n1 == 0 || n2 == 0) return 1;
  const double pooled = share(k1 + k2, n1 + n2);
  const double variance = pooled * (1 - pooled) * (1 / static_cast<double>(n1) + 1 / static_cast<double>(n2));
  if (variance <= 0) return 1;
  return std::min(1.0, 2 * upper_tail(std::abs(share(k2, n2) - share(k1, n1)) / std::sqrt(variance)));
}

double fisher_exact(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2) {
  assert(0 <= k1 && k1 <= n1 && 0 <= k2 && k2 <= n2);
  const std::int64_t right = k1 + k2, all = n1 + n2;
  if (n1 == 0 || n2 == 0 || right == 0 || right == all) return 1;
  const boost::math::hypergeometric distribution(static_cast<unsigned>(right), static_cast<unsigned>(n1),
                                                 static_cast<unsigned>(all));
  const double seen = boost::math::pdf(distribution, static_cast<unsigned>(k1));
  double p = 0;
  for (std::int64_t k = std::max<std::int64_t>(0, right - n2); k <= std::min(right, n1); ++k) {
    const double likely = boost::math::pdf(distribution, static_cast<unsigned>(k));
    if (likely <= seen * (1 + 1e-7)) p += likely;   // equal ones differ in their last bits
  }
  return std::min(1.0, p);
}

Unpaired unpaired(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2) {
  const double right = static_cast<double>(k1 + k2), all = static_cast<double>(n1 + n2);
  const double few = std::min(right, all - right) * static_cast<double>(std::min(n1, n2));
  if (all > 0 && few < 5 * all) return {fisher_exact(k1, n1, k2, n2), true};
  return {two_proportions(k1, n1, k2, n2), false};
}

Interval newcombe(std::int64_t k1, std::int64_t n1, std::int64_t k2, std::int64_t n2, double confidence) {
  const Interval one = wilson(k1, n1, confidence), two = wilson(k2, n2, confidence);
  if (n1 == 0 || n2 == 0) return {-1, 1};
  const double first = share(k1, n1), second = share(k2, n2), difference = second - first;
  return {difference - std::hypot(second - two.low, one.high - first),
          difference + std::hypot(two.high - second, first - one.low)};
}

Spread spread(const std::vector<std::int64_t>& counts, std::int64_t n) {
  Spread result;
  if (counts.size() < 2 || n == 0) return result;
  const double groups = static_cast<double>(counts.size());
  const double mean = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})) / groups;
  double squares = 0;
  for (const std::int64_t k : counts) squares += (static_cast<double>(k) - mean) * (static_cast<double>(k) - mean);
  const double variance = mean * (1 - mean / static_cast<double>(n));
  result.deviation = std::sqrt(squares / (groups - 1));
  result.chance = std::sqrt(variance);
  if (variance <= 0) return result;
  result.chi_square = squares / variance;
  result.p = boost::math::cdf(boost::math::complement(boost::math::chi_squared(groups - 1), result.chi_square));
  return result;
}

Mean mean_of(const std::vector<double>& values, double confidence) {
  Mean result;
  if (values.empty()) return result;
  const double n = static_cast<double>(values.size());
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() < 2) return result;
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.deviation = std::sqrt(squares / (n - 1));
  const boost::math::students_t t(n - 1);
  const double error = result.deviation / std::sqrt(n);
  const double half = boost::math::quantile(t, 0.5 + confidence / 2) * error;
  result.interval = {result.mean - half, result.mean + half};
  if (error > 0) result.p = std::min(1.0, 2 * boost::math::cdf(boost::math::complement(t, std::abs(result.mean) / error)));
  else result.p = result.mean == 0 ? 1 : 0;
  return result;
}

std::vector<double> holm(const std::vector<double>& p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double largest = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(p.size() - i) * p[order[i]]));
    adjusted[order[i]] = largest;
  }
  return adjusted;
}

double power(double base, double difference, std::int64_t n, double alpha) {
  const double z = z_of(1 - alpha), other = base + difference, middle = (base + other) / 2, count = static_cast<double>(n);
  const double null = std::sqrt(2 * middle * (1 - middle) / count);
  const double real = std::sqrt((base * (1 - base) + other * (1 - other)) / count);
  if (real <= 0) return difference == 0 ? 0 : 1;
  return upper_tail((z * null - difference) / real) + upper_tail((z * null + difference) / real);
}

std::optional<double> detectable(double base, std::int64_t n, double alpha, double wanted) {
  if (n <= 0 || !(power(base, 1 - base, n, alpha) >= wanted)) return std::nullopt;
  return crossing([&](double difference) { return -power(base, difference, n, alpha); }, -wanted, 0, 1 - base);
}

std::optional<std::int64_t> problems_to_rule_out(double difference, double half, std::int64_t n, double margin) {
  const double room = margin - std::abs(difference);
  if (room <= 0) return std::nullopt;
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(n) * (half / room) * (half / room)));
}

std::optional<std::int64_t> seeds_to_rule_out(double difference, double deviation, double margin, double confidence) {
  const double room = margin - std::abs(difference);
  if (room <= 0) return std::nullopt;
  for (std::int64_t seeds = 2; seeds <= 1000; ++seeds) {
    const double t = boost::math::quantile(boost::math::students_t(static_cast<double>(seeds - 1)), 0.5 + confidence / 2);
    if (t * deviation / std::sqrt(static_cast<double>(seeds)) <= room) return seeds;
  }
  return std::nullopt;
}

std::optional<std::int64_t> seeds_to_show(double difference, double deviation, double factor, double alpha) {
  for (std::int64_t seeds = 2; seeds <= 1000; ++seeds) {
    const double t = boost::math::quantile(boost::math::students_t(static_cast<double>(seeds - 1)), 1 - alpha / (2 * factor));
    if (std::abs(difference) > t * deviation / std::sqrt(static_cast<double>(seeds))) return seeds;
  }
  return std::nullopt;
}

}  // namespace assay::report
