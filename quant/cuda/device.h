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
#include "quant/stats.h"

namespace assay::quant::cuda {

struct Matrix {
  Type type = Type::fp32;
  std::int64_t rows = 0, cols = 0;
  std::int64_t stride = 0;     // elements from one row to the next, >= cols
  std::int64_t first_row = 0;  // a piece of a matrix: which row its first is (for Rounding::stochastic)
};

// Codes, two a byte along K, and block scales, in product/fp4_layout.h's form, in device memory.
struct Fp4Matrix {
  const void* codes = nullptr;
  const void* scales = nullptr;
};

// Products of row-major matrices in device memory, by cuBLASLt; results and sums in fp32. Put on a stream, as all else.
class Products {
 public:
  virtual ~Products() = default;
  virtual std::string name() const = 0;         // as "cuBLASLt 13.1.0"
  virtual std::string fp4_missing() const = 0;  // why there is no fp4(); empty where there is
  // y [m, n] = a [m, k] b, of bf16; b is [n, k] if `transposed`, else [k, n].
  virtual void bf16(const void* a, const void* b, bool transposed, std::int64_t m, std::int64_t n, std::int64_t k, float* y,
                    void* stream = nullptr) = 0;
  // y [m, n] = a [m, k] b [n, k]^T; k and n, filled up with zeros, are multiples of 32.
  virtual void fp4(const Fp4Matrix& a, const Fp4Matrix& b, std::int64_t m, std::int64_t n, std::int64_t k, float* y,
                   void* stream = nullptr) = 0;
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
  // Throws std::invalid_argument for what objection(spec, axis) names. Reads in once (with Scope::row twice, the second time
  // from the cache).
  virtual void fake_quantize(const Spec& spec, const Matrix& matrix, const void* in, void* out, int axis,
                             const float* tensor_max, void* stream = nullptr) = 0;

  // What an exact product takes (product/product.h), blocks along rows: out, bf16 of the matrix's stride, is codes * block
  // scales, and *factors what stands above them, for each row with Scope::row. Throws std::invalid_argument for tiles too.
  virtual void operand(const Spec& spec, const Matrix& matrix, const void* in, void* out, float* factors,
                       const float* tensor_max, void* stream = nullptr) = 0;

  // The same as packed codes, in quant/packed.h's layout, tiles included. codes: rows x (cols + 1) / 2 bytes; 0 where a block
  // is poisoned, and behind an odd last column. scales: E4M3 or E8M0, rows x blocks (axis 1) or blocks x cols (axis 0) bytes,
  // NaN for a poisoned block. row_maxima: with Scope::row, one for each row; may be nullptr.
  virtual void pack(const Spec& spec, const Matrix& matrix, const void* in, int axis, std::uint8_t* codes, std::uint8_t* scales,
                    float* row_maxima, const float* tensor_max, void* stream = nullptr) = 0;

  // The figures of dq against x, both of the matrix's type and stride; waits for the stream. `codes` as from pack(), or
  // nullptr: then `saturated` is 0. Counts are exact; sums are in double, in an order of their own, which is the same from
  // call to call.
  virtual ErrorStats errors(const Matrix& matrix, const void* x, const void* dq, const std::uint8_t* codes, double damping,
                            void* stream = nullptr) = 0;

  // quant/hadamard.h's transform of every 16 elements of a row, or its inverse: fp32, columns a multiple of 16 (throws
  // std::invalid_argument for others); out may be in.
  virtual void hadamard(const Matrix& matrix, const void* in, void* out, std::uint16_t signs, bool inverse,
                        void* stream = nullptr) = 0;

  // Null where there is no cuBLASLt, and in `missing` why, in one sentence. Lives as long as the device.
  virtual Products* products(std::string& missing) = 0;
};

}  // namespace assay::quant::cuda
