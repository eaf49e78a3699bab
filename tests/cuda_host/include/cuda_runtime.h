// A stand-in for CUDA's header of this name: with it kernels.cu compiles as C++, and its kernels run on the host. Written for
// what kernels.cu uses; runtime.cpp and block.h are what is behind it.
//
// The threads of a block are fibers, blocks run one after the other. It is a test tool, which prefers stopping to going on:
// where a GPU would hang or do as it likes, a launch ends with a Fault and a sentence. It looks for
//   - a lane that an exchange names and that has ended, is elsewhere, or comes there with other arguments; a __syncthreads()
//     that not all threads which have not ended come to;
//   - results that hang on an order: blocks, and threads between two exchanges, run in one that changes from launch to launch;
//   - device memory freed twice, never, or in the wrong way, copied from or to beyond its end, written to right beside it;
//     what was never written is large in every type;
//   - after defer(true): results read before the stream was waited for;
//   - launches beyond a GPU's limits.
// It cannot show what only a device's compiler and hardware do: what stands in `#ifdef __CUDA_ARCH__` (conversion
// instructions, wide loads and their alignment), that memory of the host cannot be read there, the memory model (threads here
// see each other's writes at once), races between two threads whose order does not matter here, and the speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
// One block at a time. A block finds what the last one left, where a GPU would promise nothing.
#define __shared__ static

// ---- the runtime, as far as it goes: names, values and C linkage are CUDA 13.0's ----

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = struct CUstream_st*;

struct dim3 {
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned x, y, z;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
};

extern "C" {
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
}

namespace assay::cuda_host {

struct Fault : std::logic_error {
  using std::logic_error::logic_error;
};
cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread);

// The exchanges of a warp and a block, with what one thread brings and takes. `line`: two places in a kernel are two
// exchanges, even of one kind.
std::uint32_t shuffle_xor(unsigned mask, std::uint32_t value, int lanes, int line);
std::int32_t reduce_max(unsigned mask, std::int32_t value, int line);
void synchronize_block(int line);

}  // namespace assay::cuda_host

template <class... Expected, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), Actual&&... arguments) {
  return assay::cuda_host::launch(
      *config, [kernel, ... copies = Expected(std::forward<Actual>(arguments))] { kernel(copies...); });
}

// ---- what kernels see ----

// Of the thread that runs.
inline dim3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim, gridDim;

inline void __syncthreads(int line = __builtin_LINE()) { assay::cuda_host::synchronize_block(line); }

template <class Value>  // 32 bits, or what promotes to them
auto __shfl_xor_sync(unsigned mask, Value value, int lanes, int line = __builtin_LINE()) {
  using Word = decltype(+value);
  static_assert(sizeof(Word) == 4);
  return __builtin_bit_cast(
      Word, assay::cuda_host::shuffle_xor(mask, __builtin_bit_cast(std::uint32_t, static_cast<Word>(value)), lanes, line));
}
inline int __reduce_max_sync(unsigned mask, int value, int line = __builtin_LINE()) {
  return assay::cuda_host::reduce_max(mask, value, line);
}
inline int atomicMax(int* address, int value) {
  const int before = *address;
  if (value > before) *address = value;
  return before;
}
