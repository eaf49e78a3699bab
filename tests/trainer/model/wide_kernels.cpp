// The products of avx512.cpp for a processor with AVX2 only, so that their order of sums is tested where there is no AVX-512.
#define ASSAY_GEMM_SPACE wide_on_avx2
#define ASSAY_GEMM_WIDE
#include "quant/gemm/impl.h"
#include "quant/gemm/pairs_impl.h"

#define ASSAY_KERNEL_SPACE wide_on_avx2
#define ASSAY_KERNEL_NAME "avx512, its vectors in halves"
#define ASSAY_KERNEL_GEMM quant::gemm::wide_on_avx2
#include "trainer/model/kernels/impl.h"

namespace assay::train::kernels {
const Table& avx512_in_halves() { return wide_on_avx2::table; }
}  // namespace assay::train::kernels
