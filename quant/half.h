// bf16 and fp16 as bits, to fp32 and back: branch-free, so that loops over them vectorise, and the same on a device.
#pragma once

#include <cstdint>

#include "quant/block.h"

namespace assay::quant::block {

ASSAY_QUANT_INLINE float from_bf16(std::uint16_t h) {
  return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(h) << 16));
}

// To nearest even; beyond the largest it is Inf. NaN becomes 0x7fc0, with its sign.
ASSAY_QUANT_INLINE std::uint16_t to_bf16(float x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(bits_of(x));
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = ((bits >> 16) & 0x8000u) | 0x7fc0u;
  return static_cast<std::uint16_t>(abs_bits(x) > infinity_bits ? nan : rounded);
}

// Exact. 2^112 moves the exponent's bias from 15 to 127, subnormals included.
ASSAY_QUANT_INLINE float from_fp16(std::uint16_t h) {
  const std::int32_t magnitude = (h & 0x7fff) << 13, sign = static_cast<std::int32_t>((h & 0x8000u) << 16);
  const std::int32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const std::int32_t bits = magnitude >= 0x0f800000 ? magnitude | infinity_bits : finite;
  return float_of(bits | sign);
}

// To nearest even; from 65520 on it is Inf. NaN becomes 0x7e00, with its sign.
ASSAY_QUANT_INLINE std::uint16_t to_fp16(float x) {
  const std::int32_t a = abs_bits(x), sign = (bits_of(x) >> 16) & 0x8000;
  const float r = round_to_grid<10, -14>(smaller(a, 0x47800000 /* 65536.0f */));
  const std::int32_t h = bits_of(r * 0x1p-112f) >> 13;
  return static_cast<std::uint16_t>(sign | (a > infinity_bits ? 0x7e00 : h));
}

}  // namespace assay::quant::block
