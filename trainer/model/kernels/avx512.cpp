// Compiled with -mavx512f and its kin (CMakeLists.txt): the bits of avx2.cpp.
#define ASSAY_KERNEL_SPACE wide
#define ASSAY_KERNEL_NAME "avx512"
#define ASSAY_KERNEL_GEMM quant::gemm::avx512
#include "trainer/model/kernels/impl.h"

namespace assay::train::kernels {
const Table& avx512() {
  static const Table table = [] {
    Table made = wide::table;
    if (quant::gemm::has_bf16_units()) made.pairs = quant::gemm::bf16::pairs;
    return made;
  }();
  return table;
}
}  // namespace assay::train::kernels
