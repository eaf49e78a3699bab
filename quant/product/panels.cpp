// fp32 products by quant/gemm, the work divided among OpenMP's threads.
#include <algorithm>
#include <cassert>
#include <cstdint>

#include <omp.h>

#include "quant/gemm/gemm.h"
#include "quant/product/multiplier.h"

namespace assay::quant::product {
namespace {

constexpr std::int64_t height = 6;      // rows of a tile, by which rows are divided
constexpr std::int64_t row_block = 96;  // and taken at a time: their pieces stay in the second-level cache

class Panels final : public Multiplier {
 public:
  Panels(const float* b, std::int64_t k, std::int64_t n, bool transposed) : transposed_(transposed) {
    gemm::pack(b_, b, k, n, k_stride(n), n_stride(k));
  }
  void unpack(void* to) const override { gemm::unpack(b_, static_cast<float*>(to), k_stride(b_.n), n_stride(b_.k)); }
  std::string implementation() const override {
    return gemm::best_path() == gemm::Path::avx512 ? "avx512 panels" : "avx2 panels";
  }

  void run(const void* a, std::int64_t m, float* y) const override {
    const auto* x = static_cast<const float*>(a);
    gemm::PackedProduct* const product = gemm::packed_product(gemm::best_path());
    const auto rows = [&](std::int64_t first, std::int64_t count, std::int64_t from, std::int64_t to) {
      product(count, x + first * b_.k, b_.k, 1, b_, from, to, y + first * b_.n, b_.n, 1, nullptr, false);
    };
    const std::int64_t panels = (b_.n + gemm::panel - 1) / gemm::panel;
#pragma omp parallel if (m * b_.n * b_.k > 1 << 18)
    {
      // Few rows are left whole, and the panels divided instead.
      const std::int64_t threads = omp_get_num_threads(), self = omp_get_thread_num();
      const std::int64_t steps = (m + height - 1) / height;
      if (steps >= 2 * threads) {
        const std::int64_t last = std::min(m, steps * (self + 1) / threads * height);
        for (std::int64_t r = steps * self / threads * height; r < last; r += row_block)
          rows(r, std::min(row_block, last - r), 0, b_.n);
      } else {
        const std::int64_t from = panels * self / threads * gemm::panel, to = panels * (self + 1) / threads * gemm::panel;
        rows(0, m, from, std::min(b_.n, to));
      }
    }
  }

 private:
  std::int64_t k_stride(std::int64_t n) const { return transposed_ ? 1 : n; }
  std::int64_t n_stride(std::int64_t k) const { return transposed_ ? k : 1; }

  gemm::Packed b_;
  bool transposed_;
};

}  // namespace

std::string panels_name() {
  return gemm::best_path() == gemm::Path::avx512 ? "assay's AVX-512 kernel" : "assay's AVX2 kernel";
}

bool panels_available() { return gemm::best_path() != gemm::Path::portable; }

std::unique_ptr<Multiplier> panels(const float* b, std::int64_t k, std::int64_t n, bool transposed) {
  assert(panels_available() && k > 0 && n > 0);
  return std::make_unique<Panels>(b, k, n, transposed);
}

}  // namespace assay::quant::product
