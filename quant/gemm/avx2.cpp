// Compiled with -mavx2 -mfma (CMakeLists.txt).
#define ASSAY_GEMM_SPACE avx2
#include "quant/gemm/impl.h"
#include "quant/gemm/pairs_impl.h"
