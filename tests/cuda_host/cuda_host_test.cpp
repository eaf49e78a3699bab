// The stand-in itself: kernels that are right run, faults are found and said.
#include <cuda_runtime.h>

#include <cstring>
#include <vector>

#include "catch.h"
#include "cuda_host/device.h"

namespace {

template <class... Expected, class... Actual>
cudaError_t launch(unsigned blocks, unsigned threads, void (*kernel)(Expected...), Actual... arguments) {
  cudaLaunchConfig_t config;
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

constexpr unsigned all = 0xffffffffu;

// The sum of a block's threads, by both kinds of exchange: out[block] = sum of in.
void block_sum(const float* in, float* out) {
  __shared__ float warps[8];
  float v = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(all, v, half);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += warps[w];
    out[blockIdx.x] = sum;
  }
}

void half_warps(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  const unsigned mine = t % 32 < 16 ? 0xffffu : 0xffff0000u;
  out[t] = t % 32 < 16 ? __reduce_max_sync(mine, -t) : __shfl_xor_sync(mine, t, 8);
}

void early_end(int) {
  if (threadIdx.x == 37) return;
  __reduce_max_sync(all, 1);
}
void early_end_before_a_barrier(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  atomicMax(out, static_cast<int>(threadIdx.x));
}
void two_kinds(int) {
  if (threadIdx.x < 16) __syncthreads();
  else __reduce_max_sync(all, 1);
}
void two_barriers(int) {
  if (threadIdx.x < 32) __syncthreads();
  else
    __syncthreads();
}
void two_distances(int) { __shfl_xor_sync(all, 1, threadIdx.x == 3 ? 8 : 4); }
void not_in_the_mask(int) { __reduce_max_sync(0xfffffffeu, 1); }
void outside_the_mask(int) {
  if (threadIdx.x % 32 < 16) __shfl_xor_sync(0xffffu, 1, 16);
}
void last_warp_is_part(int) { __reduce_max_sync(all, 1); }
void throws(int) {
  if (threadIdx.x == 5) throw std::runtime_error("of its own");
  __syncthreads();
}
void without_barrier(int* out) {
  __shared__ int last;
  if (threadIdx.x == blockDim.x - 1) last = static_cast<int>(blockIdx.x);
  if (last != static_cast<int>(blockIdx.x)) atomicMax(out, 1);
}
void writes_beyond(std::uint8_t* at, int place) { at[place] = 0; }
void writes_id(int* out) { *out = static_cast<int>(blockIdx.x); }

struct Memory {
  void* at = nullptr;
  explicit Memory(std::size_t bytes) { REQUIRE(cudaMalloc(&at, bytes) == cudaSuccess); }
  ~Memory() { cudaFree(at); }
  template <class T>
  T* as() const { return static_cast<T*>(at); }
};

}  // namespace

TEST_CASE("stand-in: exchanges within a warp and a block give each thread its value") {
  std::vector<float> in(4 * 256);
  std::vector<float> wanted(4), got(4);
  for (std::size_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<float>(i % 100);
    wanted[i / 256] += in[i];
  }
  for (int again = 0; again < 4; ++again) {
    REQUIRE(launch(4, 256, block_sum, in.data(), got.data()) == cudaSuccess);
    CHECK(got == wanted);
  }
  std::vector<int> halves(64);
  REQUIRE(launch(1, 64, half_warps, halves.data()) == cudaSuccess);
  for (int t = 0; t < 64; ++t) CHECK(halves[static_cast<std::size_t>(t)] == (t % 32 < 16 ? -(t / 32 * 32) : t ^ 8));
  int most = 0;
  REQUIRE(launch(1, 256, early_end_before_a_barrier, &most) == cudaSuccess);
  CHECK(most == 39);
}

TEST_CASE("stand-in: an exchange that does not come about is a fault, with a sentence") {
  using Catch::Contains;
  using assay::cuda_host::Fault;
  CHECK_THROWS_WITH(launch(1, 64, early_end, 0), Contains("names lane 5") && Contains("thread 37 of block 0 has ended"));
  CHECK_THROWS_WITH(launch(1, 64, two_kinds, 0), Contains("__reduce_max_sync()") && Contains("waits in __syncthreads()"));
  CHECK_THROWS_WITH(launch(1, 64, two_barriers, 0), Contains("thread 0 of block 0") && Contains("; but thread 32 of block 0"));
  CHECK_THROWS_WITH(launch(1, 32, two_distances, 0), Contains("another mask or distance"));
  CHECK_THROWS_WITH(launch(1, 32, not_in_the_mask, 0), Contains("leaves it out"));
  CHECK_THROWS_WITH(launch(1, 32, outside_the_mask, 0), Contains("not in the mask"));
  CHECK_THROWS_WITH(launch(1, 40, last_warp_is_part, 0), Contains("thread 40 of block 0 does not exist"));
  CHECK_THROWS_WITH(launch(1, 64, throws, 0), "of its own");
  CHECK_THROWS_AS(launch(1, 64, early_end, 0), Fault);
  // And the next launch is a launch as any other.
  int most = 0;
  REQUIRE(launch(1, 256, early_end_before_a_barrier, &most) == cudaSuccess);
  CHECK(most == 39);
}

TEST_CASE("stand-in: a barrier that is missing shows, whatever the order would have to be") {
  int shows = 0;
  REQUIRE(launch(8, 64, without_barrier, &shows) == cudaSuccess);
  CHECK(shows == 1);
  // Blocks go up and down in turns.
  int last[2] = {};
  for (int& block : last) REQUIRE(launch(8, 1, writes_id, &block) == cudaSuccess);
  CHECK(last[0] + last[1] == 7);
}

TEST_CASE("stand-in: launches beyond a GPU's limits are refused") {
  int out = 0;
  CHECK(launch(1, 1025, writes_id, &out) == cudaErrorInvalidConfiguration);
  CHECK(launch(1, 0, writes_id, &out) == cudaErrorInvalidConfiguration);
  CHECK(launch(0, 32, writes_id, &out) == cudaErrorInvalidConfiguration);
  CHECK(launch(0x80000000u, 32, writes_id, &out) == cudaErrorInvalidConfiguration);
}

TEST_CASE("stand-in: device memory is watched") {
  const std::size_t before = assay::cuda_host::allocations();
  std::uint8_t bytes[16] = {};
  {
    const Memory memory(16), other(16);
    auto* at = memory.as<std::uint8_t>();
    CHECK(reinterpret_cast<std::uintptr_t>(at) % 256 == 0);
    CHECK(assay::cuda_host::allocations() == before + 2);
    CHECK(cudaMemcpy(bytes, at, 16, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(bytes[0] == 0x7b);
    CHECK(cudaMemcpy(at, bytes, 17, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(at + 1, bytes, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(bytes, at, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(bytes, bytes, 1, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(at, bytes, 1, cudaMemcpyDeviceToDevice, nullptr) == cudaErrorInvalidValue);
    CHECK(cudaMemsetAsync(bytes, 0, 1, nullptr) == cudaErrorInvalidValue);
    assay::cuda_host::trust_other_memory(true);
    CHECK(cudaMemsetAsync(bytes, 0, 1, nullptr) == cudaSuccess);
    CHECK(cudaMemsetAsync(at + 1, 0, 16, nullptr) == cudaErrorInvalidValue);
    assay::cuda_host::trust_other_memory(false);
    CHECK(cudaFree(bytes) == cudaErrorInvalidValue);
    CHECK(cudaFree(at + 1) == cudaErrorInvalidValue);
    CHECK(cudaFreeAsync(at, nullptr) == cudaErrorInvalidValue);
  }
  CHECK(assay::cuda_host::allocations() == before);
  void* once = nullptr;
  REQUIRE(cudaMallocAsync(&once, 8, nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(once, nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(once, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaFree(once) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
#ifndef __SANITIZE_ADDRESS__  // which ends the program there
  for (const int place : {-1, 16, 100}) {
    const Memory memory(16);
    REQUIRE(launch(1, 1, writes_beyond, memory.as<std::uint8_t>(), place) == cudaSuccess);
    CHECK_THROWS_WITH(cudaStreamSynchronize(nullptr), Catch::Contains("right beside device memory of 16 bytes"));
    std::memset(memory.as<std::uint8_t>() + place, 0xc3, 1);  // for the end's own look
  }
#endif
}

TEST_CASE("stand-in: what is put on a stream can be kept back until the stream is waited for") {
  assay::cuda_host::defer(true);
  auto* const stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{16});
  void* memory = nullptr;
  int result = -1;
  REQUIRE(cudaMallocAsync(&memory, sizeof(int), stream) == cudaSuccess);
  REQUIRE(cudaMemsetAsync(memory, 1, sizeof(int), stream) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(&result, memory, sizeof(int), cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  REQUIRE(cudaFreeAsync(memory, stream) == cudaSuccess);
  CHECK(result == -1);
  CHECK(cudaMemcpyAsync(&result, memory, sizeof(int), cudaMemcpyDeviceToHost, stream) == cudaErrorInvalidValue);
  REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
  CHECK(result == -1);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(result == 0x01010101);
  assay::cuda_host::defer(false);
}
