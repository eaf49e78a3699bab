// Packing down columns: bodies.h's blocks and tiles pack themselves, columns share their bytes.
#pragma once

#include <cstdint>

#include "quant/cuda/bodies.h"

namespace assay::quant::cuda {

// ColumnBlocks, packed: a thread owns two columns, whose codes share a byte. Inputs as above, element by element where the two
// are no word.
template <Type T, int B>
struct PackedColumns {
  static ASSAY_QUANT_INLINE std::int64_t threads(const Job& job) { return blocks_in(job.rows, B) * blocks_in(job.cols, 2); }
  static ASSAY_QUANT_INLINE void run(const Job& job, std::int64_t thread) {
    const std::int64_t pairs = blocks_in(job.cols, 2), strip = quotient(thread, pairs), r0 = strip * B,
                       c0 = (thread - strip * pairs) * 2;
    const int height = block_length(job.rows - r0, B), n = block_length(job.cols - c0, 2);
    float v[2][B];
    ASSAY_UNROLL
    for (int r = 0; r < B; ++r) {
      float pair[2];
      load_floats<T>(at<T>(job.in, (r0 + r) * job.stride + c0), r < height ? n : 0, pair);
      v[0][r] = pair[0];
      v[1][r] = pair[1];
    }
    const std::int64_t place = job.first_place + r0 * job.place_stride + c0;
    ASSAY_UNROLL
    for (int j = 0; j < 2; ++j) {
      const auto [sound, scale] = quantize_block(job.spec, tensor_max_of(job), {place + j, job.place_stride}, v[j]);
      ASSAY_UNROLL
      for (int r = 0; r < B; ++r) v[j][r] = sound && j < n ? v[j][r] : 0.0f;
      if (j < n) job.scales[strip * job.cols + c0 + j] = scale_byte<B>(sound, scale.stored);
    }
    ASSAY_UNROLL
    for (int r = 0; r < B; ++r) {
      if (r < height) job.codes[(r0 + r) * job.code_stride + c0 / 2] = static_cast<std::uint8_t>(code_byte(v[0][r], v[1][r]));
    }
  }
};

}  // namespace assay::quant::cuda
