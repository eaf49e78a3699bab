// quant/cuda/kernels.cu, the whole of it, on the host: a Device for tests, without a GPU or anything of CUDA's. It gives the
// bits that a GPU gives (docs/cuda.md, Checks, says how far that is known), some hundred times slower than the CPU's own code.
// include/cuda_runtime.h says what it looks for besides; what it finds is thrown out of the Device's calls.
#pragma once

#include <cstddef>

#include "quant/cuda/device.h"

namespace assay::quant::cuda {

// Lives as long as the program. Any thread; calls wait for each other. Its kernels take any memory of the process.
Device& host_device();

}  // namespace assay::quant::cuda

namespace assay::cuda_host {

// From now on what is put on a stream is done when that stream is waited for, not before; false: at once, as in the beginning.
// A copy that waits is one on the default stream; other streams go on by themselves, as LibTorch's do.
void defer(bool on);

// Whether memory that allocate() did not give (a tensor's, say) counts as the device's, or the host's, wherever one is wanted.
// Not so in the beginning.
void trust_other_memory(bool on);

// How many pieces of device memory are not given back, what is still to be done included.
std::size_t allocations();

}  // namespace assay::cuda_host
