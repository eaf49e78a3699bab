// Compiled with -mavx512f and its kin (CMakeLists.txt): the bits of avx2.cpp.
#define ASSAY_KERNEL_SPACE wide
#define ASSAY_KERNEL_NAME "avx512"
#define ASSAY_KERNEL_GEMM quant::gemm::avx512
#include "trainer/model/kernels/impl.h"

namespace assay::train::kernels {
const Table& avx512() { return wide::table; }
}  // namespace assay::train::kernels
