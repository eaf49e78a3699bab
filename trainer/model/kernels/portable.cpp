#define ASSAY_KERNEL_SPACE plain
#define ASSAY_KERNEL_NAME "portable"
#define ASSAY_KERNEL_GEMM quant::gemm::portable
#include "trainer/model/kernels/impl.h"

namespace assay::train::kernels {
const Table& portable() { return plain::table; }
}  // namespace assay::train::kernels
