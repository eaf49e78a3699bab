// Compiled with -mavx512f and its kin (CMakeLists.txt): the bits of avx2.cpp, in vectors of 16.
#define ASSAY_GEMM_SPACE avx512
#define ASSAY_GEMM_WIDE
#include "quant/gemm/impl.h"
#include "quant/gemm/pairs_impl.h"
