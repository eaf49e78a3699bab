#include "reports/statistics.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/normal.hpp>
#include <cassert>
#include <cmath>
#include <stdexcept>
#include <string>

namespace assay::report {

Interval wilson(std::int64_t k, std::int64_t n, double confidence) {
  assert(0 <= k && k <= n);
  assert(0 < confidence && confidence < 1);
  if (n == 0) return {0, 1};
  const double z = boost::math::quantile(boost::math::normal(), 0.5 + confidence / 2);
  const double total = static_cast<double>(n), share = static_cast<double>(k) / total;
  const double denominator = 1 + z * z / total;
  const double middle = (share + z * z / (2 * total)) / denominator;
  const double half = z * std::sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / denominator;
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

}  // namespace assay::report
