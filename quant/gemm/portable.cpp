#define ASSAY_GEMM_SPACE portable
#include "quant/gemm/impl.h"
#include "quant/gemm/pairs_impl.h"
