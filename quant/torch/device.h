// Tensors in a GPU's memory through the kernels of quant/cuda/. For the files of this folder.
//
// All of it is put on the calling thread's current stream of the tensor's device and waits for nothing, so it can be captured
// in a graph. Throws c10::Error for tensors on other devices than CUDA, and where the kernels are not there, with the reason.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

#include "quant/formats.h"

namespace assay::quant {

// As fake_quantize() of fake_quantize.h, the same bits: x [..., C] of float32, bfloat16 or float16, contiguous or copied first.
// The tensor's maximum stays on the device.
at::Tensor fake_quantize_on_device(const at::Tensor& x, const Spec& spec, int axis);

// An operand of an exact product (exact.h), blocks along rows: bfloat16 as x, and float32 [1], or [rows] with Scope::row.
std::pair<at::Tensor, at::Tensor> operand_on_device(const at::Tensor& x, const Spec& spec);

// As hadamard() and inverse_hadamard() of hadamard.h, without a graph: float32, contiguous.
at::Tensor hadamard_on_device(const at::Tensor& x, std::uint16_t signs, bool inverse);

}  // namespace assay::quant
