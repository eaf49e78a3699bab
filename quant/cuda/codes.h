// The bytes of packed tensors, from a block in registers: two codes a byte, and its scale.
#pragma once

#include <cstdint>

#include "quant/block.h"
#include "quant/cuda/words.h"
#include "quant/formats.h"

#ifdef __CUDACC__
#include <cuda_fp4.h>
#endif

// Of Blackwell GPUs only, and only of targets as sm_100f; elsewhere cuda_fp4.h would emulate them, slowly.
#if defined(__CUDA_ARCH__) && defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1000
#define ASSAY_FP4_INSTRUCTIONS
#endif

namespace assay::quant::cuda {

// Two values of the grid, the first in the low nibble.
ASSAY_QUANT_INLINE std::uint32_t code_byte(float a, float b) {
#ifdef ASSAY_FP4_INSTRUCTIONS
  return __nv_cvt_float2_to_fp4x2(float2{a, b}, __NV_E2M1, cudaRoundNearest);
#else
  return static_cast<std::uint32_t>(block::code_of(a) | block::code_of(b) << 4);
#endif
}

template <int B>
ASSAY_QUANT_INLINE std::uint8_t scale_byte(bool sound, float stored) {
  constexpr Format format = B == 16 ? Format::nvfp4 : Format::mxfp4;
  return sound ? static_cast<std::uint8_t>(block::byte_of(format, stored)) : block::nan_byte(format);
}

// n <= B codes of a block to `p`; what is missing of the block is 0, and so is its code.
template <int B>
ASSAY_QUANT_INLINE void store_codes(std::uint8_t* p, int n, const float (&q)[B]) {
  std::uint32_t words[B / 8] = {};
  ASSAY_UNROLL
  for (int i = 0; i < B; i += 2) {
    words[i / 8] |= code_byte(q[i], q[i + 1]) << (i % 8 * 4);
  }
  if (n == B && aligned(p, B / 2)) {
    store_aligned<B / 8>(p, words);
    return;
  }
  ASSAY_UNROLL
  for (int i = 0; i < B; i += 2) {
    if (i < n) p[i / 2] = static_cast<std::uint8_t>(words[i / 8] >> (i % 8 * 4));
  }
}

}  // namespace assay::quant::cuda
