// One element's share of ErrorStats, and the sum of two: the definitions, for the CPU's loop and a GPU's threads.
#pragma once

#include "quant/block.h"
#include "quant/stats.h"

namespace assay::quant {

// Everything but `saturated`, which the values alone do not tell.
ASSAY_QUANT_INLINE void add_error(ErrorStats& to, float x, float dq) {
  if (block::abs_bits(x) >= block::infinity_bits || block::abs_bits(dq) >= block::infinity_bits) {
    ++to.non_finite;
    return;
  }
  const double value = x, result = dq, magnitude = value < 0 ? -value : value;
  const double error = result < value ? value - result : result - value;
  to.sum_x2 += value * value;
  to.sum_dq2 += result * result;
  to.sum_x_dq += value * result;
  to.sum_err2 += error * error;
  to.sum_abs += magnitude;
  to.sum_abs_err += error;
  if (error != 0) to.sum_damped += error / (magnitude + to.damping);
  ++to.count;
  if (x != 0 && dq == 0) ++to.dead;
}

ASSAY_QUANT_INLINE void add(ErrorStats& to, const ErrorStats& part) {
  to.sum_x2 += part.sum_x2;
  to.sum_dq2 += part.sum_dq2;
  to.sum_x_dq += part.sum_x_dq;
  to.sum_err2 += part.sum_err2;
  to.sum_abs += part.sum_abs;
  to.sum_abs_err += part.sum_abs_err;
  to.sum_damped += part.sum_damped;
  to.count += part.count;
  to.dead += part.dead;
  to.saturated += part.saturated;
  to.non_finite += part.non_finite;
}

}  // namespace assay::quant
