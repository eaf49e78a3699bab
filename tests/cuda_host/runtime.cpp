// The runtime's calls on host memory, and launches. What a caller can get wrong of CUDA's rules is answered as CUDA does, by
// an error; what CUDA would not notice is thrown as a Fault.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "block.h"
#include "device.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) static_cast<void>(0)
#endif

namespace assay::cuda_host {
namespace {

using Byte = unsigned char;

// Device memory: aligned as CUDA's, bytes before and behind it that nobody may touch.
constexpr std::size_t alignment = 256, guard = 256;
constexpr Byte untouched = 0xc3, unwritten = 0x7b;  // large in every type

struct Allocation {
  std::size_t bytes;
  bool of_a_stream;  // by cudaMallocAsync
  bool gone = false;  // cudaFreeAsync was called, the stream may not be there yet
};

struct Runtime {
  std::mutex mutex;
  std::map<Byte*, Allocation> memory;
  std::map<cudaStream_t, std::vector<std::function<void()>>> streams;
  bool deferred = false, trusting = false;
  std::uint32_t launches = 0;
  Block block;
};
Runtime& runtime() {
  static Runtime& it = *new Runtime;  // not destroyed: others' static objects may hold memory
  return it;
}

void check_guards() {
  for (const auto& [at, allocation] : runtime().memory) {
    const auto touched = [](Byte byte) { return byte != untouched; };
    Byte* const end = at + allocation.bytes;
    ASAN_UNPOISON_MEMORY_REGION(at - guard, guard);
    ASAN_UNPOISON_MEMORY_REGION(end, guard);
    if (std::any_of(at - guard, at, touched) || std::any_of(end, end + guard, touched))
      throw Fault("something was written right beside device memory of " + std::to_string(allocation.bytes) + " bytes");
    ASAN_POISON_MEMORY_REGION(at - guard, guard);
    ASAN_POISON_MEMORY_REGION(end, guard);
  }
}

cudaError_t allocate(void** memory, std::size_t bytes, bool of_a_stream) {
  if (runtime().memory.size() >= 1000) throw Fault("1000 pieces of device memory are not given back");
  auto* whole = static_cast<Byte*>(::operator new(bytes + 2 * guard, std::align_val_t(alignment)));
  std::memset(whole, untouched, bytes + 2 * guard);
  std::memset(whole + guard, unwritten, bytes);
  ASAN_POISON_MEMORY_REGION(whole, guard);
  ASAN_POISON_MEMORY_REGION(whole + guard + bytes, guard);
  runtime().memory.emplace(whole + guard, Allocation{bytes, of_a_stream});
  *memory = whole + guard;
  return cudaSuccess;
}

void give_back(Byte* at) {
  check_guards();
  const auto found = runtime().memory.find(at);
  ASAN_UNPOISON_MEMORY_REGION(at - guard, found->second.bytes + 2 * guard);
  runtime().memory.erase(found);
  ::operator delete(at - guard, std::align_val_t(alignment));
}

// Whether these bytes may be taken for device memory, or for the host's.
bool is_memory_of(bool device, const void* at, std::size_t bytes) {
  const auto* const first = static_cast<const Byte*>(at);
  for (const auto& [begin, allocation] : runtime().memory) {
    const Byte* const end = begin + allocation.bytes;
    if (first + bytes <= begin - guard || first >= end + guard) continue;
    return device && !allocation.gone && first >= begin && first + bytes <= end;
  }
  return !device || runtime().trusting;
}

bool may_copy(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return true;
  return is_memory_of(kind != cudaMemcpyDeviceToHost, to, bytes) && is_memory_of(kind != cudaMemcpyHostToDevice, from, bytes);
}

void put_on(cudaStream_t stream, std::function<void()> work) {
  if (runtime().deferred) runtime().streams[stream].push_back(std::move(work));
  else work();
}

void wait_for(cudaStream_t stream) {
  const auto work = std::move(runtime().streams[stream]);
  runtime().streams[stream].clear();
  for (const auto& each : work) each();
  check_guards();
}
void wait_for_all() {
  for (auto& stream : runtime().streams) wait_for(stream.first);
}

void run(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  Runtime& it = runtime();
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  // Up or down, in turns: no block may need another's work.
  const std::uint32_t seed = ++it.launches * 2654435761u;
  for (unsigned i = 0; i < gridDim.x; ++i) {
    blockIdx.x = it.launches % 2 ? i : gridDim.x - 1 - i;
    it.block.run(blockDim.x, thread, seed + i);
  }
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread) {
  const auto& [grid, block, shared, stream] = config;
  if (grid.x == 0 || grid.x > 0x7fffffffu || block.x == 0 || block.x > 1024) return cudaErrorInvalidConfiguration;
  if (grid.y * grid.z * block.y * block.z != 1 || shared != 0)
    throw Fault("this stand-in knows one dimension, and no shared memory but what a kernel declares");
  const std::lock_guard lock(runtime().mutex);
  put_on(stream, [config, thread = std::move(thread)] { run(config, thread); });
  return cudaSuccess;
}

std::uint32_t shuffle_xor(unsigned mask, std::uint32_t value, int lanes, int line) {
  return runtime().block.wait({Kind::shuffle_xor, mask, lanes, line}, value);
}
std::int32_t reduce_max(unsigned mask, std::int32_t value, int line) {
  return static_cast<std::int32_t>(
      runtime().block.wait({Kind::reduce_max, mask, 0, line}, static_cast<std::uint32_t>(value)));
}
void synchronize_block(int line) {
  runtime().block.wait({Kind::barrier, 0, 0, line}, 0);
}

void defer(bool on) {
  const std::lock_guard lock(runtime().mutex);
  if (!on) wait_for_all();
  runtime().deferred = on;
}
void trust_other_memory(bool on) {
  const std::lock_guard lock(runtime().mutex);
  runtime().trusting = on;
}
std::size_t allocations() {
  const std::lock_guard lock(runtime().mutex);
  return runtime().memory.size();
}

}  // namespace assay::cuda_host

using namespace assay::cuda_host;

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidValue;
  // 10.0 for FP4 products; one processor, so that threads have more than one turn where a kernel takes turns.
  *properties = {"CUDA kernels on the host", 10, 0, 1};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const std::lock_guard lock(runtime().mutex);
  if (bytes == 0) return *memory = nullptr, cudaSuccess;
  return allocate(memory, bytes, false);
}
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
  const std::lock_guard lock(runtime().mutex);
  return bytes == 0 ? cudaErrorInvalidValue : allocate(memory, bytes, true);
}

cudaError_t cudaFree(void* memory) {
  const std::lock_guard lock(runtime().mutex);
  if (!memory) return cudaSuccess;
  const auto found = runtime().memory.find(static_cast<Byte*>(memory));
  if (found == runtime().memory.end() || found->second.gone) return cudaErrorInvalidValue;
  wait_for_all();
  give_back(found->first);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  const auto found = runtime().memory.find(static_cast<Byte*>(memory));
  if (found == runtime().memory.end() || found->second.gone || !found->second.of_a_stream) return cudaErrorInvalidValue;
  found->second.gone = true;
  put_on(stream, [at = found->first] { give_back(at); });
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const std::lock_guard lock(runtime().mutex);
  if (!may_copy(to, from, bytes, kind)) return cudaErrorInvalidValue;
  wait_for(nullptr);
  std::copy_n(static_cast<const Byte*>(from), bytes, static_cast<Byte*>(to));
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!may_copy(to, from, bytes, kind)) return cudaErrorInvalidValue;
  put_on(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (bytes > 0 && !is_memory_of(true, memory, bytes)) return cudaErrorInvalidValue;
  put_on(stream, [=] { std::fill_n(static_cast<Byte*>(memory), bytes, static_cast<Byte>(byte)); });
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  wait_for(stream);
  return cudaSuccess;
}

}  // extern "C"
