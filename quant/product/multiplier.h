// A packed fp32 or bf16 matrix and the kernel that multiplies with it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "quant/product/product.h"

namespace assay::quant::product {

class Multiplier {
 public:
  virtual ~Multiplier() = default;
  // y [m, n] = a [m, k] b, all row-major, a of b's type, y fp32; m > 0. Any number of threads may run one Multiplier.
  virtual void run(const void* a, std::int64_t m, float* y) const = 0;
  // b as it was given.
  virtual void unpack(void* to) const = 0;
  virtual std::string implementation() const = 0;
};

// b is row-major [n, k] if `transposed`, else [k, n]; k, n > 0.

// ---- oneDNN (onednn.cpp) ----
std::unique_ptr<Multiplier> onednn(Unit unit, const void* b, std::int64_t k, std::int64_t n, bool transposed);
bool onednn_has_bf16();    // units, not emulation
std::string onednn_version();  // "oneDNN 2.6.3, avx2"

// ---- a GPU's, by cuBLASLt (cuda.cpp); a is host memory as for all ----
// Why it cannot be had, in a sentence; empty where it can. fp4: the native products of NVFP4.
std::string cuda_missing(bool fp4);
std::string cuda_version();
std::unique_ptr<Multiplier> cuda_bf16(const void* b, std::int64_t k, std::int64_t n, bool transposed);
// a and b as quantize_fp4() makes them: b of [n, k], transposed.
std::unique_ptr<Multiplier> cuda_fp4(const void* b, std::int64_t k, std::int64_t n);

// ---- our own for AVX2 and AVX-512 (panels.cpp), by quant/gemm ----
// oneDNN's row of y depends on how many rows there are where it has no AVX-512 to work with; here it never does.
std::unique_ptr<Multiplier> panels(const float* b, std::int64_t k, std::int64_t n, bool transposed);
bool panels_available();    // AVX2 and FMA
std::string panels_name();  // "assay's AVX2 kernel"

}  // namespace assay::quant::product
