// kernels.cu as C++, by the stand-in header, with an entry of its own name.
#include <cuda_runtime.h>

#include "quant/cuda/module.h"

#undef ASSAY_CUDA_ENTRY
#define ASSAY_CUDA_ENTRY assay_cuda_host_device
extern "C" assay::quant::cuda::Device* ASSAY_CUDA_ENTRY(std::string& missing);

#include "quant/cuda/kernels.cu"

#include "device.h"

namespace assay::quant::cuda {

Device& host_device() {
  static Device& device = [&]() -> Device& {
    std::string missing;
    if (Device* found = ASSAY_CUDA_ENTRY(missing)) return *found;
    throw std::logic_error(missing);
  }();
  return device;
}

}  // namespace assay::quant::cuda
