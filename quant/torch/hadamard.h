// The random Hadamard transform (quant/hadamard.h) of tensors, differentiable: it is orthogonal, so the backward of each is
// the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace assay::quant {

// x [..., C], float32 on the CPU, C a multiple of 16; contiguous result. Throws c10::Error for others. LibTorch's threads
// share the rows; the bits do not depend on how many.
at::Tensor hadamard(const at::Tensor& x, std::uint16_t signs);
at::Tensor inverse_hadamard(const at::Tensor& x, std::uint16_t signs);

}  // namespace assay::quant
