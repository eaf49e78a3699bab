#include "quant/hadamard.h"

#include <array>
#include <bit>
#include <cassert>

#include "quant/block.h"

namespace assay::quant {
namespace {

// x in 16 registers or two: H x, by halves.
ASSAY_QUANT_INLINE void butterflies(float* x) {
  for (int half = 8; half > 0; half /= 2) {
    float y[16];
    for (int i = 0; i < 16; ++i) {
      const float a = x[i & ~half], b = x[i | half];
      y[i] = i & half ? a - b : a + b;
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
}

// 0 or the sign bit of each element, to be flipped.
std::array<std::int32_t, 16> flips(std::uint16_t signs) {
  std::array<std::int32_t, 16> bits{};
  for (std::size_t j = 0; j < 16; ++j) bits[j] = (signs >> j) & 1 ? ~block::abs_mask : 0;
  return bits;
}

template <bool Inverse>
void transform(const float* in, float* out, std::int64_t rows, std::int64_t cols, std::uint16_t signs) {
  assert(cols % 16 == 0);
  const auto flip = flips(signs);
  for (std::int64_t first = 0; first < rows * cols; first += 16) {
    float x[16];
    for (std::size_t i = 0; i < 16; ++i) {
      const float value = in[first + static_cast<std::int64_t>(i)];
      x[i] = Inverse ? value : block::float_of(block::bits_of(value) ^ flip[i]);
    }
    butterflies(x);
    for (std::size_t i = 0; i < 16; ++i) {
      const float value = x[i] * 0.25f;
      out[first + static_cast<std::int64_t>(i)] = Inverse ? block::float_of(block::bits_of(value) ^ flip[i]) : value;
    }
  }
}

}  // namespace

std::uint16_t hadamard_signs(std::uint64_t seed) { return static_cast<std::uint16_t>(block::random_key(seed) >> 48); }

void hadamard16(const float* in, float* out, std::int64_t rows, std::int64_t cols, std::uint16_t signs) {
  transform<false>(in, out, rows, cols, signs);
}

void inverse_hadamard16(const float* in, float* out, std::int64_t rows, std::int64_t cols, std::uint16_t signs) {
  transform<true>(in, out, rows, cols, signs);
}

}  // namespace assay::quant
