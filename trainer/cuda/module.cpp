// libassay_train_cuda.so. Its symbols of CUDA's half of LibTorch are found in libtorch_cuda.so and libc10_cuda.so, which
// loader.cpp opens before it.
#include "trainer/cuda/module.h"

#include <ATen/ATen.h>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <exception>

namespace assay::train {
namespace {

using c10::cuda::CUDAStream;

class Gpu : public Accelerator {
 public:
  explicit Gpu(c10::DeviceIndex device) : device_(device), stream_(c10::cuda::getStreamFromPool(false, device)) {
    cudaDeviceProp facts{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&facts, device));
    name_ = std::string(facts.name) + ", compute capability " + std::to_string(facts.major) + "." + std::to_string(facts.minor);
    identity_ = "GPU-";
    for (const char byte : facts.uuid.bytes) {
      constexpr const char* digits = "0123456789abcdef";
      identity_ += digits[static_cast<unsigned char>(byte) >> 4];
      identity_ += digits[static_cast<unsigned char>(byte) & 15];
    }
  }

  std::string name() const override { return name_; }
  std::string identity() const override { return identity_; }

  at::Device device() const override { return {at::kCUDA, device_}; }

  double peak_memory_gb() const override {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device_);
    const auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return static_cast<double>(stats.allocated_bytes[all].peak) / (1024.0 * 1024.0 * 1024.0);
  }

  void on_own_stream(const std::function<void()>& work) override {
    const CUDAStream outer = c10::cuda::getCurrentCUDAStream(device_);
    follow(stream_, outer);
    std::exception_ptr thrown;
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      try {
        work();
      } catch (...) {
        thrown = std::current_exception();
      }
    }
    follow(outer, stream_);  // memory that the work let go of may be taken by what comes after
    if (thrown) std::rethrow_exception(thrown);
  }

  std::unique_ptr<Graph> capture(const std::function<void()>& work) override {
    // A graph has memory of its own, and while it is recorded LibTorch gives none back of what it keeps for later, not even that
    // of graphs that are gone: it would say that the GPU is full.
    c10::cuda::CUDACachingAllocator::emptyCache();
    auto recorded = std::make_unique<Recorded>();
    recorded->graph.capture_begin();
    try {
      work();
    } catch (...) {
      // The stream would go on recording what comes next; what ending it says is of no use beside the first error.
      try {
        recorded->graph.capture_end();
      } catch (const std::exception&) {
      }
      throw;
    }
    recorded->graph.capture_end();
    return recorded;
  }

  std::unique_ptr<Fetch> fetch(const at::Tensor& tensor) override {
    auto copy = std::make_unique<Copy>();
    copy->value = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
    copy->value.copy_(tensor, /*non_blocking=*/true);
    copy->arrived.record(c10::cuda::getCurrentCUDAStream(device_));
    return copy;
  }

 private:
  struct Recorded : Graph {
    at::cuda::CUDAGraph graph;
    void replay() override { graph.replay(); }
  };
  struct Copy : Fetch {
    at::Tensor value;
    c10::cuda::CUDAEvent arrived;
    at::Tensor wait() override {
      arrived.synchronize();
      return value;
    }
  };

  static void follow(const CUDAStream& later, const CUDAStream& earlier) {
    c10::cuda::CUDAEvent done;
    done.record(earlier);
    done.block(later);
  }

  c10::DeviceIndex device_;
  CUDAStream stream_;
  std::string name_, identity_;
};

}  // namespace
}  // namespace assay::train

extern "C" assay::train::Accelerator* ASSAY_TRAIN_CUDA_ENTRY(std::string& missing) {
  try {
    if (c10::cuda::device_count_ensure_non_zero() < 1) {
      missing = "there is no GPU on this machine";
      return nullptr;
    }
    static assay::train::Gpu gpu(0);
    return &gpu;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    missing = "the GPU cannot be used: " + what.substr(0, what.find('\n'));
    return nullptr;
  }
}
