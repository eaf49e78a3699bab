// Compiled with -mavx512f and its kin (CMakeLists.txt): the bits of avx2.cpp, products in vectors of 16.
#define ASSAY_KERNEL_SPACE wide
#define ASSAY_KERNEL_NAME "avx512"
#define ASSAY_KERNEL_WIDE
#include "trainer/model/kernels/impl.h"

namespace assay::train::kernels {
const Table& avx512() { return wide::table; }
}  // namespace assay::train::kernels
