#define ASSAY_TARGET
#include "quant/simd/loops.h"
#include "quant/simd/bf16_loops.h"
#include "quant/simd/pack_loops.h"

namespace assay::quant::simd {

const Kernels generic{finite_max_of, load, store, consecutive_blocks<16>, consecutive_blocks<32>, rows_of_blocks, strip,
                   consecutive_bf16<16>, consecutive_bf16<32>, strip_bf16};
const PackKernels pack_generic{pack_blocks, pack_strip, unpack_blocks, unpack_strip};

}  // namespace assay::quant::simd
