// What a fake quantization did to its input, in figures.
#pragma once

#include <cstdint>

namespace assay::quant {

// Sums are in double, in memory order of the matrix. An element enters them when it and its result are both finite;
// the others are counted in `non_finite`.
struct ErrorStats {
  double sum_x2 = 0;        // sum of x^2
  double sum_err2 = 0;      // sum of (dq - x)^2
  double sum_abs = 0;       // sum of |x|
  double sum_abs_err = 0;   // sum of |dq - x|
  std::int64_t count = 0;       // elements in the sums
  std::int64_t dead = 0;        // non-zero x whose dq is 0
  std::int64_t saturated = 0;   // elements at code ±6, whether clipped or not
  std::int64_t non_finite = 0;  // elements left out of the sums

  double sqnr_db() const;       // 10 log10(sum_x2 / sum_err2); +inf when there is no error
  double relative_rms() const;  // sqrt(sum_err2 / sum_x2); 0 when there is no error
  double relative_abs() const;  // sum_abs_err / sum_abs; 0 when there is no error
};

// Adds the sums of n elements (everything but `saturated`, which the values alone do not tell).
void accumulate(ErrorStats& stats, const float* x, const float* dq, std::int64_t n);

}  // namespace assay::quant
