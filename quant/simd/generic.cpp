#define ASSAY_TARGET
#include "quant/simd/loops.h"

namespace assay::quant::simd {

const Kernels generic{finite_max_of, load, store, consecutive_blocks<16>, consecutive_blocks<32>, strip};

}  // namespace assay::quant::simd
