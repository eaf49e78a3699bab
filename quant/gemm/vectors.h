// Vectors of 8 floats for kernels that are compiled once for each processor: with AVX2 and FMA one register, else what the
// compiler makes of them. In an unnamed namespace, so that no file's code is ever another's.
#pragma once

#include <cstdint>
#ifdef __FMA__
#include <immintrin.h>
#endif

#define ASSAY_INLINE inline __attribute__((always_inline))

namespace assay::quant::gemm {
namespace {

typedef float v8 __attribute__((vector_size(32)));
typedef float v8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef std::int32_t i8 __attribute__((vector_size(32)));

ASSAY_INLINE v8 load(const float* p) { return *reinterpret_cast<const v8u*>(p); }
ASSAY_INLINE void store(float* p, v8 x) { *reinterpret_cast<v8u*>(p) = x; }
ASSAY_INLINE v8 splat(float x) { return v8{x, x, x, x, x, x, x, x}; }
ASSAY_INLINE i8 first_lanes(std::int64_t n) { return i8{0, 1, 2, 3, 4, 5, 6, 7} < static_cast<std::int32_t>(n); }
ASSAY_INLINE v8 load_part(const float* p, std::int64_t n, float fill) {  // n of 8 elements
#ifdef __AVX2__
  const i8 on = first_lanes(n);
  const v8 x = (v8)_mm256_maskload_ps(p, (__m256i)on);
  return on ? x : splat(fill);
#else
  v8 x = splat(fill);
  for (std::int64_t i = 0; i < n; ++i) x[i] = p[i];
  return x;
#endif
}
ASSAY_INLINE void store_part(float* p, v8 x, std::int64_t n) {
#ifdef __AVX2__
  _mm256_maskstore_ps(p, (__m256i)first_lanes(n), (__m256)x);
#else
  for (std::int64_t i = 0; i < n; ++i) p[i] = x[i];
#endif
}
ASSAY_INLINE float sum(v8 x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
ASSAY_INLINE v8 max(v8 a, v8 b) { return a > b ? a : b; }
ASSAY_INLINE float largest(v8 x) {
  float m = x[0];
  for (int i = 1; i < 8; ++i) m = x[i] > m ? x[i] : m;
  return m;
}
ASSAY_INLINE v8 fma(v8 a, v8 b, v8 c) {
#ifdef __FMA__
  return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

}  // namespace
}  // namespace assay::quant::gemm
