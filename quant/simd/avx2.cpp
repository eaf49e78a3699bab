#if defined(__x86_64__)

#define ASSAY_TARGET __attribute__((target("arch=x86-64-v3")))
#define ASSAY_AVX2
#include "quant/simd/loops.h"
#include "quant/simd/bf16_loops.h"
#include "quant/simd/pack_loops.h"

namespace assay::quant::simd {

const Kernels avx2{finite_max_of, load, store, consecutive_blocks<16>, consecutive_blocks<32>, rows_of_blocks, strip,
                   consecutive_bf16<16>, consecutive_bf16<32>, strip_bf16};
const PackKernels pack_avx2{pack_blocks, pack_strip, unpack_blocks, unpack_strip};

}  // namespace assay::quant::simd

#endif
