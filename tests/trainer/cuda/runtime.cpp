#include "tests/trainer/cuda/runtime.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

// cuda_runtime_api.h leaves what they are open.
struct CUstream_st {
  std::deque<assay::test::cuda::Work> work;
  std::vector<assay::test::cuda::Work>* recorded = nullptr;  // where it goes instead
  bool spoilt = false;
  void add(assay::test::cuda::Work piece) {
    if (recorded) recorded->push_back(std::move(piece));
    else work.push_back(std::move(piece));
  }
};
struct CUevent_st {
  std::shared_ptr<bool> reached;  // of the last record; none: not recorded
};

namespace assay::test::cuda {
namespace {

struct Gpu {
  CUstream_st first;                                // the default stream, whose handle is null
  std::vector<std::unique_ptr<CUstream_st>> others;  // number n is others[n - 1]
  c10::StreamId current = 0;
  cudaError_t last = cudaSuccess;
};
Gpu& gpu() {
  static thread_local Gpu own;
  return own;
}
std::atomic<int> alive{0};  // events
void* (*address)(const void*) = [](const void* p) { return const_cast<void*>(p); };

CUstream_st* find(cudaStream_t stream) {
  if (!stream) return &gpu().first;
  for (const auto& other : gpu().others)
    if (other.get() == stream) return stream;
  return nullptr;
}

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) gpu().last = error;
  return error;
}

// Whether anything was done.
bool look() {
  bool moved = false;
  const auto turn = [&](CUstream_st& stream) {
    if (stream.work.empty() || !stream.work.front()()) return;
    stream.work.pop_front();
    moved = true;
  };
  turn(gpu().first);
  for (const auto& other : gpu().others) turn(*other);
  return moved;
}

// Whether some stream records, which is spoilt then.
bool spoils() {
  bool any = false;
  for (const auto& other : gpu().others)
    if (other->recorded) any = other->spoilt = true;
  return any;
}

// What the modules link for the sake of a class that they use a part of.
[[noreturn]] void unexpected(const char* call) {
  std::fprintf(stderr, "stand-in for CUDA: %s() is not what the modules are known to call\n", call);
  std::abort();
}

}  // namespace

void put(cudaStream_t stream, Work work) {
  CUstream_st* const found = find(stream);
  if (!found) throw std::logic_error("work for a stream of another GPU, or of none");
  found->add(std::move(work));
}

std::size_t unfinished() {
  std::size_t n = gpu().first.work.size();
  for (const auto& other : gpu().others) n += other->work.size();
  return n;
}

int events() { return alive; }

cudaError_t begin_recording(cudaStream_t stream, std::vector<Work>* into) {
  CUstream_st* const found = find(stream);
  if (!found || !stream || found->recorded) return answer(cudaErrorIllegalState);
  found->recorded = into;
  found->spoilt = false;
  return cudaSuccess;
}
cudaError_t end_recording(cudaStream_t stream) {
  CUstream_st* const found = find(stream);
  if (!found || !found->recorded) return answer(cudaErrorIllegalState);
  found->recorded = nullptr;
  return answer(found->spoilt ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}
bool recording() {
  for (const auto& other : gpu().others)
    if (other->recorded) return true;
  return false;
}
State& state() {
  static thread_local State own;
  return own;
}

void* behind(const void* p) { return address(p); }
void set_behind(void* (*function)(const void*)) { address = function; }

}  // namespace assay::test::cuda

using namespace assay::test::cuda;

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(gpu().last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidResourceHandle ? "invalid resource handle" : "an error";
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  ++alive;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  --alive;
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  CUstream_st* const found = find(stream);
  if (!found) return answer(cudaErrorInvalidResourceHandle);
  const auto reached = event->reached = std::make_shared<bool>(false);
  found->add([reached] { return *reached = true; });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (spoils()) return answer(cudaErrorStreamCaptureUnsupported);
  look();
  return answer(!event->reached || *event->reached ? cudaSuccess : cudaErrorNotReady);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (spoils()) return answer(cudaErrorStreamCaptureUnsupported);
  for (int in_vain = 0; event->reached && !*event->reached;) {
    in_vain = look() ? 0 : in_vain + 1;
    if (in_vain == 1000) return answer(cudaErrorLaunchTimeout);  // where a GPU hangs
  }
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  CUstream_st* const found = find(stream);
  if (!found) return answer(cudaErrorInvalidResourceHandle);
  if (const auto reached = event->reached) found->add([reached] { return *reached; });
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const CUstream_st* const found = find(stream);
  if (!found) return answer(cudaErrorInvalidResourceHandle);
  *status = !found->recorded ? cudaStreamCaptureStatusNone
            : found->spoilt  ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { unexpected("cudaDeviceSynchronize"); }
cudaError_t cudaEventElapsedTime(float*, cudaEvent_t, cudaEvent_t) { unexpected("cudaEventElapsedTime"); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { unexpected("cudaEventRecord"); }

}  // extern "C"

namespace c10::cuda {
namespace {
CUDAStream numbered(StreamId id) { return CUDAStream(CUDAStream::UNCHECKED, Stream(Stream::UNSAFE, Device(kCUDA, 0), id)); }
}  // namespace

DeviceIndex device_count() noexcept { return 1; }
cudaError_t GetDevice(DeviceIndex* device) { return *device = 0, cudaSuccess; }
cudaError_t SetDevice(DeviceIndex device, bool) { return device == 0 ? cudaSuccess : answer(cudaErrorInvalidDevice); }
cudaError_t MaybeSetDevice(DeviceIndex device) { return SetDevice(device); }
DeviceIndex ExchangeDevice(DeviceIndex device) {
  C10_CUDA_CHECK(SetDevice(device));
  return 0;
}
void c10_cuda_check_implementation(std::int32_t error, const char*, const char*, std::uint32_t, bool) {
  TORCH_CHECK(error == cudaSuccess, "CUDA error: ", cudaGetErrorString(static_cast<cudaError_t>(error)), "\nmore of it");
}

CUDAStream getDefaultCUDAStream(DeviceIndex) { return numbered(0); }
CUDAStream getCurrentCUDAStream(DeviceIndex) { return numbered(gpu().current); }
void setCurrentCUDAStream(CUDAStream stream) { gpu().current = stream.id(); }
CUDAStream getStreamFromPool(bool, DeviceIndex) {
  gpu().others.push_back(std::make_unique<CUstream_st>());
  return numbered(static_cast<StreamId>(gpu().others.size()));
}
CUDAStream getStreamFromPool(int, DeviceIndex) { unexpected("getStreamFromPool"); }
cudaStream_t CUDAStream::stream() const { return id() == 0 ? nullptr : gpu().others.at(static_cast<std::size_t>(id() - 1)).get(); }
bool CUDAStream::query() const { unexpected("CUDAStream::query"); }
void CUDAStream::synchronize() const { unexpected("CUDAStream::synchronize"); }
}  // namespace c10::cuda
