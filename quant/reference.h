// The scalar reference: the oracle of every faster path. One loop per formula, readable beside docs/quantization.md.
#pragma once

#include <cstdint>

#include "quant/formats.h"

namespace assay::quant {

// What a fake quantization did, in one pass. Sums in double, in memory order.
struct ErrorStats {
  double sum_x2 = 0;        // sum of x^2 over finite x
  double sum_err2 = 0;      // sum of (dq - x)^2
  double sum_abs = 0, sum_abs_err = 0;
  std::int64_t count = 0;
  std::int64_t dead = 0;       // non-zero x whose dq is 0
  std::int64_t saturated = 0;  // elements at code ±6
  double sqnr_db() const;      // 10 log10(sum_x2 / sum_err2); +inf when there is no error
};

// out = dequantize(quantize(in)) for a row-major matrix [rows, cols], blocks along `axis` (1: along a row, 0: down a
// column); a partial last block behaves as if padded with zeros. in == out is allowed. rows or cols may be 0.
// Scope::row with axis 0 is refused by assertion: a row scale crosses the blocks.
// Cost: reads the input twice for NVFP4 `te` with Scope::tensor (the tensor's maximum first), once otherwise.
void fake_quantize(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols, int axis,
                   ErrorStats* stats = nullptr);

}  // namespace assay::quant
