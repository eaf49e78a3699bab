#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "trainer/model/kernels/kernels.h"

namespace assay::train::kernels {

namespace {
const Table& choose() {
  const char* asked = std::getenv("ASSAY_KERNELS");
  const auto allowed = [asked](const char* name) { return !asked || std::strcmp(asked, name) == 0; };
#if defined(__x86_64__)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (allowed("avx512") && has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
    return avx512();
  if (allowed("avx2") && has_avx2) return avx2();
#endif
  if (allowed("portable")) return portable();
  throw std::runtime_error(std::string("ASSAY_KERNELS=") + asked + ": this processor has no such kernels; portable runs everywhere");
}
}  // namespace

const Table& active() {
  static const Table& table = choose();
  return table;
}

void pack(Packed& to, const float* b, i64 k, i64 n, i64 k_stride, i64 n_stride) {
  to.k = k;
  to.n = n;
  to.data.assign(static_cast<std::size_t>(round_up(n, panel) * k), 0.f);
  for (i64 n0 = 0; n0 < n; n0 += panel) {
    float* out = to.data.data() + n0 * k;
    const i64 columns = n - n0 < panel ? n - n0 : panel;
    for (i64 i = 0; i < k; ++i)
      for (i64 j = 0; j < columns; ++j) out[i * panel + j] = b[i * k_stride + (n0 + j) * n_stride];
  }
}

}  // namespace assay::train::kernels
