#include "quant/stats.h"

#include <cmath>
#include <limits>

#include "quant/stats_sum.h"

namespace assay::quant {

double ErrorStats::sqnr_db() const {
  if (sum_err2 == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(sum_x2 / sum_err2);
}

double ErrorStats::relative_rms() const { return sum_err2 == 0 ? 0 : std::sqrt(sum_err2 / sum_x2); }

double ErrorStats::relative_abs() const { return sum_abs_err == 0 ? 0 : sum_abs_err / sum_abs; }

double ErrorStats::relative_damped() const { return count == 0 ? 0 : sum_damped / static_cast<double>(count); }

double ErrorStats::cosine() const {
  if (sum_x2 == 0 || sum_dq2 == 0) return sum_x2 == sum_dq2 ? 1 : 0;
  return sum_x_dq / (std::sqrt(sum_x2) * std::sqrt(sum_dq2));
}

double ErrorStats::dead_share() const {
  const std::int64_t all = count + non_finite;
  return all == 0 ? 0 : static_cast<double>(dead) / static_cast<double>(all);
}

double ErrorStats::saturated_share() const {
  const std::int64_t all = count + non_finite;
  return all == 0 ? 0 : static_cast<double>(saturated) / static_cast<double>(all);
}

void accumulate(ErrorStats& stats, const float* x, const float* dq, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) add_error(stats, x[i], dq[i]);
}

}  // namespace assay::quant
