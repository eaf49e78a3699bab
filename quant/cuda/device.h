// The FP4 kernels on a CUDA device, as one interface: what libassay_cuda.so implements and loader.h hands out.
//
// Matrices are row-major in device memory. Everything but the copies and synchronize() is put on a stream (nullptr: the
// default one) of the calling thread's current device and returns at once. Whatever CUDA reports is thrown as
// std::runtime_error, with the call's name. Results have the bits of quant/fake_quantize.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "quant/formats.h"

namespace assay::quant::cuda {

struct Matrix {
  Type type = Type::fp32;
  std::int64_t rows = 0, cols = 0;
  std::int64_t stride = 0;     // elements from one row to the next, >= cols
  std::int64_t first_row = 0;  // a piece of a matrix: which row its first is (for Rounding::stochastic)
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;  // as "NVIDIA H200, compute capability 9.0"

  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* memory) = 0;
  virtual void upload(void* to, const void* from, std::size_t bytes) = 0;    // waits
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;  // waits
  virtual void copy(void* to, const void* from, std::size_t bytes, void* stream = nullptr) = 0;  // on the device
  virtual void synchronize(void* stream = nullptr) = 0;

  // *max = the largest finite |x|, 0 when there is none. `max` is device memory.
  virtual void finite_max(const Matrix& matrix, const void* x, float* max, void* stream = nullptr) = 0;

  // out = dequantize(quantize(in)), both of the matrix's type and stride; out may be in. `tensor_max`, in device memory,
  // is the whole matrix's finite_max(), or one kept from before; read only where needs_tensor_max(spec).
  // The caller has seen to it that objection(spec, axis) is empty. Reads in once (with Scope::row twice, the second time
  // from the cache).
  virtual void fake_quantize(const Spec& spec, const Matrix& matrix, const void* in, void* out, int axis,
                             const float* tensor_max, void* stream = nullptr) = 0;

  // The same as packed codes, blocks along rows (axis 1, no tiles). codes: rows x (cols + 1) / 2 bytes, the code of an
  // even column in the low nibble; 0 where a block is poisoned, and behind an odd last column. scales: rows x blocks
  // bytes, E4M3 or E8M0, its NaN for a poisoned block. row_maxima: with Scope::row, one for each row; may be nullptr.
  virtual void pack(const Spec& spec, const Matrix& matrix, const void* in, std::uint8_t* codes, std::uint8_t* scales,
                    float* row_maxima, const float* tensor_max, void* stream = nullptr) = 0;
};

}  // namespace assay::quant::cuda
