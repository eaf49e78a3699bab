#include "quant/stats.h"

#include <cmath>
#include <limits>

namespace assay::quant {

double ErrorStats::sqnr_db() const {
  if (sum_err2 == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(sum_x2 / sum_err2);
}

double ErrorStats::relative_rms() const { return sum_err2 == 0 ? 0 : std::sqrt(sum_err2 / sum_x2); }

double ErrorStats::relative_abs() const { return sum_abs_err == 0 ? 0 : sum_abs_err / sum_abs; }

void accumulate(ErrorStats& stats, const float* x, const float* dq, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i]) || !std::isfinite(dq[i])) {
      ++stats.non_finite;
      continue;
    }
    const double value = x[i], error = static_cast<double>(dq[i]) - value;
    stats.sum_x2 += value * value;
    stats.sum_err2 += error * error;
    stats.sum_abs += std::fabs(value);
    stats.sum_abs_err += std::fabs(error);
    ++stats.count;
    if (x[i] != 0 && dq[i] == 0) ++stats.dead;
  }
}

}  // namespace assay::quant
