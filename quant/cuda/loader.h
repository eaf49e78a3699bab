// Opens libassay_cuda.so, which lies beside the program. Nothing of CUDA is linked into the program itself, so one build
// serves machines with and without a GPU.
#pragma once

#include <string>

#include "quant/cuda/device.h"

namespace assay::quant::cuda {

struct Opened {
  Device* device = nullptr;  // lives as long as the program
  std::string missing;       // what is missing, in one sentence; empty when there is a device
};

// Looks once; later calls repeat the answer. Any thread.
const Opened& open_device();

}  // namespace assay::quant::cuda
