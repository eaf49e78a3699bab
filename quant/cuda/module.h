// The one symbol of libassay_cuda.so.
#pragma once

#include <string>

#include "quant/cuda/device.h"

// The number goes up when Device or Spec changes, so that a module left over from another build is refused.
#define ASSAY_CUDA_ENTRY assay_cuda_device_3
#define ASSAY_CUDA_ENTRY_NAME "assay_cuda_device_3"

// The device, or nullptr and in `missing` why there is none, in one sentence.
extern "C" assay::quant::cuda::Device* ASSAY_CUDA_ENTRY(std::string& missing);
