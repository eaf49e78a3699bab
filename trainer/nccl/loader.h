// Opens NCCL for ranks that compute on GPUs. Nothing of it is linked.
#pragma once

#include <string>

#include "trainer/nccl/module.h"

namespace assay::train {

struct OpenedNccl {
  const nccl::Table* table = nullptr;  // lives as long as the program
  std::string missing;                 // what is missing, in one sentence that ends with what to do; empty when nothing is
};

// Looks once; later calls repeat the answer. After open_gpu(), whose libtorch_cuda.so brings libnccl.so.2 along; where it does
// not, that is looked for on the loader's path, then in nvidia/nccl/lib of the site-packages that hold LibTorch and of
// $ASSAY_TORCH.
const OpenedNccl& open_nccl();

}  // namespace assay::train
