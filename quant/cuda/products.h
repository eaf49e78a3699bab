// cuBLASLt's products, for kernels.cu. Compiled where its headers are; the library itself is opened when it is asked for.
#pragma once

#include <string>

#include "quant/cuda/device.h"

namespace assay::quant::cuda {

// Of the current device, of this compute capability's major number; null and why in `missing`.
Products* open_products(int major, std::string& missing);

}  // namespace assay::quant::cuda
