// What a fake quantization did to its input, in figures.
#pragma once

#include <cstdint>

namespace assay::quant {

// Sums are in double, in memory order of the matrix. An element enters them when it and its result are both finite;
// the others are counted in `non_finite`. err = |dq - x|.
struct ErrorStats {
  // Set before use: what keeps relative_damped() from counting tiny x too much. .01 of the deviation of x is what
  // published figures use; with 0, an x of 0 counts for nothing.
  double damping = 0;

  double sum_x2 = 0;        // sum of x^2
  double sum_dq2 = 0;       // sum of dq^2
  double sum_x_dq = 0;      // sum of x dq
  double sum_err2 = 0;      // sum of err^2
  double sum_abs = 0;       // sum of |x|
  double sum_abs_err = 0;   // sum of err
  double sum_damped = 0;    // sum of err / (|x| + damping)
  std::int64_t count = 0;       // elements in the sums
  std::int64_t dead = 0;        // non-zero x whose dq is 0
  std::int64_t saturated = 0;   // elements at code ±6, whether clipped or not
  std::int64_t non_finite = 0;  // elements left out of the sums

  double sqnr_db() const;          // 10 log10(sum_x2 / sum_err2); +inf when there is no error
  double relative_rms() const;     // sqrt(sum_err2 / sum_x2); 0 when there is no error
  double relative_abs() const;     // sum_abs_err / sum_abs, mean error over mean magnitude; 0 when there is no error
  double relative_damped() const;  // mean of err / (|x| + damping): say the damping beside it
  double cosine() const;           // sum_x_dq / sqrt(sum_x2 sum_dq2); 1 when both are 0, 0 when one is
  double dead_share() const;       // dead / all elements: the dead zone around 0
  double saturated_share() const;  // saturated / all elements
};

// Adds the sums of n elements (everything but `saturated`, which the values alone do not tell).
void accumulate(ErrorStats& stats, const float* x, const float* dq, std::int64_t n);

}  // namespace assay::quant
