#include "quant/hadamard.h"

#include <cassert>

#include "quant/block.h"

namespace assay::quant {
namespace {

template <bool Inverse>
void transform(const float* in, float* out, std::int64_t rows, std::int64_t cols, std::uint16_t signs) {
  assert(cols % 16 == 0);
  std::int32_t flip[16];
  for (int j = 0; j < 16; ++j) flip[j] = block::hadamard_flip(signs, j);
  for (std::int64_t first = 0; first < rows * cols; first += 16) {
    float x[16];
    for (int i = 0; i < 16; ++i) x[i] = in[first + i];
    block::hadamard<Inverse>(x, flip);
    for (int i = 0; i < 16; ++i) out[first + i] = x[i];
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
