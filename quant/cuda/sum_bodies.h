// Bodies over a whole matrix, for bodies.h's threads: each thread has a part, and whoever calls them combines.
#pragma once

#include <cstdint>

#include "quant/cuda/bodies.h"
#include "quant/stats_sum.h"

namespace assay::quant::cuda {

// ---- the tensor's maximum ----

// In pieces of 16 bytes.
template <Type T>
ASSAY_QUANT_INLINE std::int64_t parts_of_finite_max(const Job& job) {
  return job.rows * blocks_in(job.cols, 4 * Words<T>::each);
}

// Part of the largest finite |x| that falls to one of `threads` threads; the caller combines.
template <Type T>
ASSAY_QUANT_INLINE std::int32_t part_of_finite_max(const Job& job, std::int64_t thread, std::int64_t threads) {
  constexpr int B = 4 * Words<T>::each;
  const std::int64_t pieces = blocks_in(job.cols, B), all = parts_of_finite_max<T>(job);
  std::int32_t m = 0;
  for (std::int64_t i = thread; i < all; i += threads) {
    const std::int64_t row = quotient(i, pieces), c = (i - row * pieces) * B;
    float v[B];
    load_floats<T>(at<T>(job.in, row * job.stride + c), block_length(job.cols - c, B), v);
    m = block::larger(m, largest_finite(v));
  }
  return m;
}

// ---- error figures ----

// Part of the sums that falls to one of `threads` threads, which take pieces of 16 bytes in turns; ErrorStats without the
// order of a CPU's sum. x and dq are matrices alike; codes (packed, may be null) say what is saturated.
struct ErrorJob {
  const void* x = nullptr;
  const void* dq = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;
  const std::uint8_t* codes = nullptr;
  double damping = 0;
};
template <Type T>
ASSAY_QUANT_INLINE std::int64_t parts_of_errors(const ErrorJob& job) {
  return job.rows * blocks_in(job.cols, 4 * Words<T>::each);
}
template <Type T>
ASSAY_QUANT_INLINE ErrorStats part_of_errors(const ErrorJob& job, std::int64_t thread, std::int64_t threads) {
  constexpr int B = 4 * Words<T>::each;
  const std::int64_t pieces = blocks_in(job.cols, B), all = parts_of_errors<T>(job);
  ErrorStats sums;
  sums.damping = job.damping;
  for (std::int64_t i = thread; i < all; i += threads) {
    const std::int64_t row = quotient(i, pieces), c = (i - row * pieces) * B, offset = row * job.stride + c;
    const int n = block_length(job.cols - c, B);
    float x[B], dq[B];
    load_floats<T>(at<T>(job.x, offset), n, x);
    load_floats<T>(at<T>(job.dq, offset), n, dq);
    ASSAY_UNROLL
    for (int j = 0; j < B; ++j) {
      if (j >= n) continue;
      add_error(sums, x[j], dq[j]);
      if (job.codes) {
        const int byte = job.codes[row * blocks_in(job.cols, 2) + (c + j) / 2];
        sums.saturated += ((byte >> ((c + j) % 2 * 4)) & 7) == 7;
      }
    }
  }
  return sums;
}

}  // namespace assay::quant::cuda
