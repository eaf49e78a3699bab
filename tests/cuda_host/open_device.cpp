// quant/cuda/loader.h's open_device(), for a program that takes the host for a device: linked as an object, it comes before the
// library's. With the stand-in for cuBLASLt where $ASSAY_TORCH leads.
#include <cstdlib>
#include <string>

#include "cuda_host/device.h"
#include "quant/cuda/loader.h"

namespace assay::quant::cuda {

const Opened& open_device() {
  static const Opened opened = [] {
    setenv("ASSAY_TORCH", ASSAY_TORCH_STAND_IN, 1);
    Opened found{&host_device(), ""};
    const Products* products = found.device->products(found.missing);
    // A real library reads no host memory.
    if (products && products->name() != "cuBLASLt 13.99.99")
      found.missing = "the loader finds another cuBLASLt than the stand-in: " + products->name();
    if (!found.missing.empty()) found.device = nullptr;
    return found;
  }();
  return opened;
}

}  // namespace assay::quant::cuda
