// Compiled with -mavx2 -mfma (CMakeLists.txt).
#define ASSAY_KERNEL_SPACE fast
#define ASSAY_KERNEL_NAME "avx2"
#define ASSAY_KERNEL_GEMM quant::gemm::avx2
#include "trainer/model/kernels/impl.h"

namespace assay::train::kernels {
const Table& avx2() { return fast::table; }
}  // namespace assay::train::kernels
