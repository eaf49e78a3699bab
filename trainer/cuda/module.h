// The one symbol of libassay_train_cuda.so: what decoding and reports ask of a GPU beyond LibTorch's own operations.
#pragma once

#include <string>

#include "trainer/model/accelerator.h"

// The number goes up when Accelerator changes, so that a module left over from another build is refused.
#define ASSAY_TRAIN_CUDA_ENTRY assay_train_cuda_2
#define ASSAY_TRAIN_CUDA_ENTRY_NAME "assay_train_cuda_2"

// Of the first GPU that CUDA_VISIBLE_DEVICES leaves, or null and in `missing` why there is none, in one sentence without its
// beginning's capital and end. Lives as long as the program.
extern "C" __attribute__((visibility("default"))) assay::train::Accelerator* ASSAY_TRAIN_CUDA_ENTRY(std::string& missing);
