// What libassay_train_cuda.so asks of LibTorch's half for CUDA besides streams and events: graphs, the allocator, the GPU's facts.
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/trainer/cuda/runtime.h"

namespace assay::test::cuda {
namespace {

std::map<const void*, std::vector<Work>>& recorded() {
  static std::map<const void*, std::vector<Work>> graphs;
  return graphs;
}

namespace memory = c10::cuda::CUDACachingAllocator;

// Only what is asked is answered.
struct Memory : memory::CUDAAllocator {
  [[noreturn]] static void none() { TORCH_CHECK(false, "stand-in for CUDA: the allocator is asked for what it does not have"); }
  void emptyCache(c10::MempoolId_t) override {
    state().calls.emplace_back(recording() ? "empty the cache while recording" : "empty the cache");
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    if (device == 0) stats.allocated_bytes[all].peak = state().most_bytes;
    return stats;
  }

  c10::DataPtr allocate(std::size_t) override { none(); }
  void copy_data(void*, const void*, std::size_t) const override { none(); }
  bool initialized() override { none(); }
  void resetAccumulatedStats(c10::DeviceIndex) override { none(); }
  void resetPeakStats(c10::DeviceIndex) override { none(); }
  void* raw_alloc(std::size_t) override { none(); }
  void* raw_alloc_with_stream(std::size_t, cudaStream_t) override { none(); }
  void raw_delete(void*) override { none(); }
  void init(int) override { none(); }
  double getMemoryFraction(c10::DeviceIndex) override { none(); }
  void setMemoryFraction(double, c10::DeviceIndex) override { none(); }
  std::vector<memory::StreamSegmentSize> getExpandableSegmentSizes(c10::DeviceIndex) override { none(); }
  void enable(bool) override { none(); }
  bool isEnabled() const override { none(); }
  void cacheInfo(c10::DeviceIndex, std::size_t*) override { none(); }
  void* getBaseAllocation(void*, std::size_t*) override { none(); }
  void recordStream(const c10::DataPtr&, c10::cuda::CUDAStream) override { none(); }
  memory::SnapshotInfo snapshot(c10::MempoolId_t, bool) override { none(); }
  void beginAllocateToPool(c10::DeviceIndex, c10::MempoolId_t, std::function<bool(cudaStream_t)>) override { none(); }
  void endAllocateToPool(c10::DeviceIndex, c10::MempoolId_t) override { none(); }
  void releasePool(c10::DeviceIndex, c10::MempoolId_t) override { none(); }
  memory::ShareableHandle shareIpcHandle(void*) override { none(); }
  std::shared_ptr<void> getIpcDevPtr(std::string) override { none(); }
  void recordHistory(bool, memory::CreateContextFn, std::size_t, memory::RecordContext, bool,
                     const std::vector<std::string>&) override {
    none();
  }
  void attachOutOfMemoryObserver(memory::OutOfMemoryObserver) override { none(); }
  void attachAllocatorTraceTracker(memory::AllocatorTraceTracker) override { none(); }
  void enablePeerAccess(c10::DeviceIndex, c10::DeviceIndex) override { none(); }
  cudaError_t memcpyAsync(void*, int, const void*, int, std::size_t, cudaStream_t, bool) override { none(); }
  std::shared_ptr<memory::AllocatorState> getCheckpointState(c10::DeviceIndex, c10::MempoolId_t) override { none(); }
  memory::CheckpointDelta setCheckpointPoolState(c10::DeviceIndex, std::shared_ptr<memory::AllocatorState>) override { none(); }
  std::string name() override { return "a stand-in"; }
};
Memory the_memory;

}  // namespace

int graphs() { return static_cast<int>(recorded().size()); }

}  // namespace assay::test::cuda

using namespace assay::test::cuda;

namespace c10::cuda {
namespace CUDACachingAllocator {
std::atomic<CUDAAllocator*> allocator{&the_memory};
}
DeviceIndex device_count_ensure_non_zero() {
  TORCH_CHECK(state().present, "No CUDA GPUs are available");
  return 1;
}
}  // namespace c10::cuda

extern "C" cudaError_t cudaGetDeviceProperties(cudaDeviceProp* facts, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *facts = {};
  std::strcpy(facts->name, "A stand-in");
  facts->major = 9;
  facts->minor = 1;
  for (int i = 0; i < 16; ++i) facts->uuid.bytes[i] = static_cast<char>(i * 17);
  return cudaSuccess;
}

// What they check is what LibTorch's check. A graph that was spoilt has no work.
namespace at::cuda {

CUDAGraph::CUDAGraph(bool keep_graph) : capture_stream_(getCurrentCUDAStream()), keep_graph_(keep_graph) { recorded()[this]; }
CUDAGraph::~CUDAGraph() { recorded().erase(this); }

void CUDAGraph::capture_begin(MempoolId_t, cudaStreamCaptureMode mode) {
  TORCH_CHECK(!has_graph_exec_, "recorded already");
  capture_stream_ = getCurrentCUDAStream();
  TORCH_CHECK(capture_stream_ != c10::cuda::getDefaultCUDAStream(), "recording on the default stream");
  TORCH_CHECK(mode == cudaStreamCaptureModeGlobal);
  C10_CUDA_CHECK(begin_recording(capture_stream_.stream(), &recorded()[this]));
  state().calls.emplace_back("begin");
}

void CUDAGraph::capture_end() {
  TORCH_CHECK(getCurrentCUDAStream() == capture_stream_, "the end of a recording on another stream");
  state().calls.emplace_back("end");
  C10_CUDA_CHECK(end_recording(capture_stream_.stream()));
  has_graph_exec_ = true;
}

void CUDAGraph::replay() {
  TORCH_CHECK(has_graph_exec_, "a replay of what was not recorded");
  state().calls.emplace_back("replay");
  for (const Work& work : recorded()[this]) put(getCurrentCUDAStream().stream(), work);
}

}  // namespace at::cuda
