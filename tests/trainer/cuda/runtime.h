// CUDA's streams and events that are not there, for libassay_nccl.so and libassay_train_cuda.so as they are built: what they leave
// open of CUDA's runtime and of LibTorch's half for CUDA is defined in runtime.cpp, by the real headers, in a library that a test
// program links. Nothing else of the program calls it: tensors are those of tests/trainer/gpu, whose operations are done at once.
//
// A thread of the host has a GPU of its own, as a rank has. Its streams are as late as they may be: none does anything by itself,
// and each look at the GPU (a query, a synchronization) has each stream do one piece of its work. A stream that no event joins to
// another waits for nothing of it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace assay::test::cuda {

// A piece of work: whether it is done. Asked again until it is, and then what was put behind it has its turn.
using Work = std::function<bool()>;
void put(cudaStream_t stream, Work work);  // throws std::logic_error for a stream that is none of this GPU
std::size_t unfinished();                  // pieces of work on this GPU
int events();                              // that are not destroyed, of all GPUs

// While a stream of this GPU records, what is put there is kept for the graph and not done, and the host must not ask about events:
// that spoils the recording (cudaStreamCaptureModeGlobal).
cudaError_t begin_recording(cudaStream_t stream, std::vector<Work>* into);
cudaError_t end_recording(cudaStream_t stream);
bool recording();
int graphs();  // that are not destroyed

// Of this GPU: what a test says about it, and what was asked of graphs and of the allocator, in order.
struct State {
  bool present = true;
  std::int64_t most_bytes = 0;
  std::vector<std::string> calls;
};
State& state();

// The address that the host may use, of a device's; throws std::logic_error for the host's. Any address is a device's until another
// function is given.
void* behind(const void* p);
void set_behind(void* (*function)(const void*));

}  // namespace assay::test::cuda
