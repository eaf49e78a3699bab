// Opens what a run on a GPU needs: the driver, CUDA's half of LibTorch, the FP4 kernels, and libassay_train_cuda.so, which lies
// beside the program. Nothing of these is linked, so one build serves machines with and without a GPU.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/model/accelerator.h"

namespace assay::train {

struct OpenedGpu {
  Accelerator* accelerator = nullptr;  // lives as long as the program
  std::string missing;                 // what is missing, in one sentence that ends with what to do; empty when nothing is
};

// Looks once; later calls repeat the answer. To be called before anything asks LibTorch for CUDA: it looks for its other half
// once, too. libtorch_cuda.so is looked for, in this order,
//   in the folder of the libtorch_cpu.so that is loaded,
//   in $ASSAY_TORCH/torch/lib, the site-packages of a full `pip install torch==2.11.0`.
// What it needs (cuBLAS, cuDNN, NCCL, …) it finds by its own run path in nvidia/*/lib of that site-packages; where it does not,
// all libraries of those folders are opened first.
const OpenedGpu& open_gpu();

// The folders that open_gpu() looks into, each once. For its messages and tests.
std::vector<std::filesystem::path> torch_folders();

// What dlopen() or dlsym() last found wrong.
std::string loader_error();

}  // namespace assay::train
