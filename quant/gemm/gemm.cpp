#include "quant/gemm/gemm.h"

#include "quant/gemm/pairs.h"

namespace assay::quant::gemm {
namespace {

// f(packed element, its place in the source) for all.
template <class P, class F>
void each(P& packed, i64 k_stride, i64 n_stride, F f) {
  for (i64 n0 = 0; n0 < packed.n; n0 += panel) {
    auto* at = packed.data.data() + n0 * packed.k;
    const i64 columns = packed.n - n0 < panel ? packed.n - n0 : panel;
    for (i64 i = 0; i < packed.k; ++i)
      for (i64 j = 0; j < columns; ++j) f(at[i * panel + j], i * k_stride + (n0 + j) * n_stride);
  }
}

}  // namespace

void pack(Packed& to, const float* b, i64 k, i64 n, i64 k_stride, i64 n_stride) {
  to.k = k;
  to.n = n;
  to.data.assign(static_cast<std::size_t>(round_up(n, panel) * k), 0.f);
  each(to, k_stride, n_stride, [b](float& packed, i64 at) { packed = b[at]; });
}

void unpack(const Packed& from, float* b, i64 k_stride, i64 n_stride) {
  each(from, k_stride, n_stride, [b](const float& packed, i64 at) { b[at] = packed; });
}

void pack(PackedPairs& to, const std::uint32_t* rows, i64 k, i64 n) {
  to.k = k;
  to.n = n;
  const i64 all = words(k);
  to.data.assign(static_cast<std::size_t>(round_up(n, panel) * all), 0);
  for (i64 j = 0; j < n; ++j) {
    std::uint32_t* at = to.data.data() + j / panel * panel * all + j % panel;
    for (i64 i = 0; i < all; ++i) at[i * panel] = rows[j * all + i];
  }
}

bool available(Path path) {
#if defined(__x86_64__)
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (path == Path::avx2) return fma;
  if (path == Path::avx512)
    return fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#endif
  return path == Path::portable;
}

bool has_bf16_units() {
#if defined(__x86_64__)
  return available(Path::avx512) && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

Path best_path() {
  static const Path best = available(Path::avx512) ? Path::avx512 : available(Path::avx2) ? Path::avx2 : Path::portable;
  return best;
}

PackedProduct* packed_product(Path path) {
  return path == Path::avx512 ? avx512::packed : path == Path::avx2 ? avx2::packed : portable::packed;
}

}  // namespace assay::quant::gemm
