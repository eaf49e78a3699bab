// fp32 products on AVX2, a row at a time for all that the bits can tell.
#include <algorithm>
#include <cassert>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "quant/product/multiplier.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define ASSAY_AVX2 __attribute__((target("avx2,fma")))
#endif

namespace assay::quant::product {

#if defined(__x86_64__)
namespace {

constexpr std::int64_t panel = 16;      // columns that lie together
constexpr std::int64_t piece = 256;     // of k: a panel's piece is 16 KB, so it stays in the first-level cache
constexpr std::int64_t row_block = 96;  // rows whose pieces stay in the second-level cache while all panels pass

// R rows of a times P panels over `length` of k, added to y or stored there. Panels are `stride` apart.
template <int R, int P>
ASSAY_AVX2 void tile(std::int64_t length, const float* a, std::int64_t a_stride, const float* b, std::int64_t stride,
                     float* y, std::int64_t y_stride, bool add) {
  __m256 sum[R][2 * P];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < 2 * P; ++j) sum[r][j] = _mm256_setzero_ps();
  }
  for (std::int64_t k = 0; k < length; ++k) {
    __m256 column[2 * P];
#pragma GCC unroll 8
    for (int j = 0; j < 2 * P; ++j) column[j] = _mm256_load_ps(b + (j / 2) * stride + k * panel + (j % 2) * 8);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 x = _mm256_broadcast_ss(a + r * a_stride + k);
#pragma GCC unroll 8
      for (int j = 0; j < 2 * P; ++j) sum[r][j] = _mm256_fmadd_ps(x, column[j], sum[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < 2 * P; ++j) {
      float* to = y + r * y_stride + j * 8;
      _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), sum[r][j]) : sum[r][j]);
    }
  }
}

// The last panel of a matrix whose n is no multiple of 16: through a buffer, because y ends before it does.
template <int R>
ASSAY_AVX2 void edge(std::int64_t length, const float* a, std::int64_t a_stride, const float* b, float* y,
                     std::int64_t y_stride, std::int64_t columns, bool add) {
  alignas(32) float buffer[R * panel];
  tile<R, 1>(length, a, a_stride, b, 0, buffer, panel, false);
  for (int r = 0; r < R; ++r) {
    for (std::int64_t j = 0; j < columns; ++j) {
      float& to = y[r * y_stride + j];
      to = add ? to + buffer[r * panel + j] : buffer[r * panel + j];
    }
  }
}

class Panels final : public Multiplier {
 public:
  Panels(const float* b, std::int64_t k, std::int64_t n, bool transposed)
      : k_(k), n_(n), transposed_(transposed), count_((n + panel - 1) / panel),
        memory_(static_cast<std::size_t>(count_ * panel * k) + 8, 0.0f) {
    data_ = memory_.data();
    while (reinterpret_cast<std::uintptr_t>(data_) % 32 != 0) ++data_;
    each([b](float& packed, std::int64_t at) { packed = b[at]; });
  }

  void unpack(void* to) const override {
    each([to](float& packed, std::int64_t at) { static_cast<float*>(to)[at] = packed; });
  }
  std::string implementation() const override { return "avx2 panels"; }

  void run(const void* a, std::int64_t m, float* y) const override {
    const auto* x = static_cast<const float*>(a);
    const std::int64_t work = m * n_ * k_;
#pragma omp parallel if (work > 1 << 18)
    {
      // Rows are divided in steps of six, a tile's height; few of them are left whole, and the panels divided instead.
      const std::int64_t threads = omp_get_num_threads(), self = omp_get_thread_num();
      const std::int64_t steps = (m + 5) / 6;
      if (steps >= 2 * threads) {
        const std::int64_t last = std::min(m, steps * (self + 1) / threads * 6);
        for (std::int64_t r = steps * self / threads * 6; r < last; r += row_block) {
          block(x + r * k_, std::min(row_block, last - r), y + r * n_, 0, count_);
        }
      } else {
        for (std::int64_t r = 0; r < m; r += row_block) {
          block(x + r * k_, std::min(row_block, m - r), y + r * n_, count_ * self / threads,
                count_ * (self + 1) / threads);
        }
      }
    }
  }

 private:
  // f(packed element, its index in the source) for all.
  template <class F>
  void each(F f) const {
    for (std::int64_t c = 0; c < n_; ++c) {
      float* at = data_ + (c / panel) * panel * k_ + c % panel;
      for (std::int64_t i = 0; i < k_; ++i) f(at[i * panel], transposed_ ? c * k_ + i : i * n_ + c);
    }
  }

  // At most row_block rows, panels [from, to).
  ASSAY_AVX2 void block(const float* x, std::int64_t rows, float* y, std::int64_t from, std::int64_t to) const {
    for (std::int64_t k = 0; k < k_; k += piece) {
      const std::int64_t length = std::min(piece, k_ - k);
      const std::int64_t whole = std::min(to, n_ / panel);
      std::int64_t p = from;
      // Few rows do not fill the registers by themselves: more panels at a time do.
      if (rows == 1) {
        for (; p + 4 <= whole; p += 4) columns<1, 4>(x + k, rows, y, p, k, length);
      } else if (rows <= 3) {
        for (; p + 2 <= whole; p += 2) columns<3, 2>(x + k, rows, y, p, k, length);
      }
      for (; p < whole; ++p) columns<6, 1>(x + k, rows, y, p, k, length);
      if (p < to) last_columns(x + k, rows, y, p, k, length);
    }
  }

  // All rows times P panels from p on, in tiles of R rows and a rest.
  template <int R, int P>
  ASSAY_AVX2 void columns(const float* x, std::int64_t rows, float* y, std::int64_t p, std::int64_t k,
                          std::int64_t length) const {
    const float* b = data_ + (p * k_ + k) * panel;
    const std::int64_t stride = k_ * panel;
    float* to = y + p * panel;
    for (; rows >= R; rows -= R, x += R * k_, to += R * n_) tile<R, P>(length, x, k_, b, stride, to, n_, k > 0);
    if constexpr (R > 1) {
      if (rows == 1) tile<1, P>(length, x, k_, b, stride, to, n_, k > 0);
      if (rows == 2) tile<2, P>(length, x, k_, b, stride, to, n_, k > 0);
    }
    if constexpr (R > 3) {
      if (rows == 3) tile<3, P>(length, x, k_, b, stride, to, n_, k > 0);
      if (rows == 4) tile<4, P>(length, x, k_, b, stride, to, n_, k > 0);
      if (rows == 5) tile<5, P>(length, x, k_, b, stride, to, n_, k > 0);
    }
  }

  ASSAY_AVX2 void last_columns(const float* x, std::int64_t rows, float* y, std::int64_t p, std::int64_t k,
                               std::int64_t length) const {
    const float* b = data_ + (p * k_ + k) * panel;
    float* to = y + p * panel;
    const std::int64_t left = n_ - p * panel;
    for (; rows >= 4; rows -= 4, x += 4 * k_, to += 4 * n_) edge<4>(length, x, k_, b, to, n_, left, k > 0);
    for (; rows > 0; --rows, x += k_, to += n_) edge<1>(length, x, k_, b, to, n_, left, k > 0);
  }

  std::int64_t k_, n_;
  bool transposed_;
  std::int64_t count_;         // panels
  std::vector<float> memory_;  // [count][k][16], zero-padded, from data_ on
  float* data_;
};

}  // namespace

bool panels_available() {
  static const bool yes = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return yes;
}

std::unique_ptr<Multiplier> panels(const float* b, std::int64_t k, std::int64_t n, bool transposed) {
  assert(panels_available() && k > 0 && n > 0);
  return std::make_unique<Panels>(b, k, n, transposed);
}
#else
bool panels_available() { return false; }
std::unique_ptr<Multiplier> panels(const float*, std::int64_t, std::int64_t, bool) {
  assert(!"needs AVX2");
  return nullptr;
}
#endif

}  // namespace assay::quant::product
