#include "tests/trainer/gpu/stand_in.h"

#include <ATen/ATen.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "quant/cuda/loader.h"
#include "tests/cuda_host/device.h"
#include "tests/trainer/gpu/memory.h"
#include "trainer/cuda/loader.h"

namespace assay::test {
namespace {

namespace cuda = quant::cuda;

std::vector<std::function<void()>>* recorded_work = nullptr;  // of the graph that is recorded

// kernels.cu's, on the memory behind.
class Kernels : public cuda::Device {
 public:
  std::string name() const override { return "a stand-in"; }
  void* allocate(std::size_t bytes) override { return memory().allocate(bytes); }
  void release(void* p) override { memory().release(p); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    host_waits("an upload");
    std::memcpy(memory().behind(to), from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    host_waits("a download");
    std::memcpy(to, memory().behind(from), bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes, void*) override {
    before_write(to);
    run([=, this](void* s) { cuda::host_device().copy(behind(to), behind(from), bytes, s); });
  }
  void synchronize(void*) override { host_waits("a synchronization"); }
  void finite_max(const cuda::Matrix& matrix, const void* x, float* max, void*) override {
    before_write(max);
    run([=, this](void* s) { cuda::host_device().finite_max(matrix, behind(x), behind(max), s); });
  }
  void fake_quantize(const quant::Spec& spec, const cuda::Matrix& matrix, const void* in, void* out, int axis, const float* tensor_max,
                     void*) override {
    before_write(out);
    run([=, this](void* s) { cuda::host_device().fake_quantize(spec, matrix, behind(in), behind(out), axis, behind(tensor_max), s); });
  }
  void operand(const quant::Spec& spec, const cuda::Matrix& matrix, const void* in, void* out, float* factors, const float* tensor_max,
               void*) override {
    for (const void* p : {static_cast<const void*>(out), static_cast<const void*>(factors)}) before_write(p);
    run([=, this](void* s) { cuda::host_device().operand(spec, matrix, behind(in), behind(out), behind(factors), behind(tensor_max), s); });
  }
  void pack(const quant::Spec& spec, const cuda::Matrix& matrix, const void* in, int axis, std::uint8_t* codes, std::uint8_t* scales,
            float* row_maxima, const float* tensor_max, void*) override {
    for (const void* p : std::initializer_list<const void*>{codes, scales, row_maxima}) before_write(p);
    run([=, this](void* s) {
      cuda::host_device().pack(spec, matrix, behind(in), axis, behind(codes), behind(scales), behind(row_maxima), behind(tensor_max), s);
    });
  }
  quant::ErrorStats errors(const cuda::Matrix& matrix, const void* x, const void* dq, const std::uint8_t* codes, double damping,
                           void*) override {
    host_waits("error figures");
    return cuda::host_device().errors(matrix, behind(x), behind(dq), behind(codes), damping, nullptr);
  }
  void hadamard(const cuda::Matrix& matrix, const void* in, void* out, std::uint16_t signs, bool inverse, void*) override {
    before_write(out);
    run([=, this](void* s) { cuda::host_device().hadamard(matrix, behind(in), behind(out), signs, inverse, s); });
  }
  cuda::Products* products(std::string& missing) override { return cuda::host_device().products(missing); }

 private:
  static GpuMemory& memory() { return GpuMemory::instance(); }
  template <class T>
  static T* behind(T* p) {
    return memory().behind(p);
  }
  static void run(std::function<void(void*)> launch) {
    on_stand_in([launch = std::move(launch)] { launch(nullptr); });
  }
};

class StandIn : public train::Accelerator {
 public:
  std::string name() const override { return "a stand-in"; }
  // A rank's own, by the GPU that it has left itself.
  std::string identity() const override {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return std::string("GPU-") + (visible ? visible : "0");
  }
  at::Device device() const override { return {at::kCUDA, 0}; }
  double peak_memory_gb() const override { return static_cast<double>(GpuMemory::instance().peak()) / (1024.0 * 1024.0 * 1024.0); }

  void on_own_stream(const std::function<void()>& work) override { work(); }

  std::unique_ptr<Graph> capture(const std::function<void()>& work) override {
    GpuMemory& memory = GpuMemory::instance();
    auto graph = std::make_unique<Recorded>();
    graph->pool = memory.new_pool();
    struct Recording {
      explicit Recording(Recorded& graph) {
        GpuMemory::instance().use_pool(graph.pool);
        recorded_work = &graph.work;
      }
      ~Recording() {
        recorded_work = nullptr;
        GpuMemory::instance().undo();  // nothing of it has been done
        GpuMemory::instance().use_pool(nullptr);
      }
    };
    {
      const Recording recording(*graph);
      work();
    }
    ++stand_in_counts().captures;
    return graph;
  }

  std::unique_ptr<Fetch> fetch(const at::Tensor& tensor) override {
    if (recorded_work) throw std::logic_error("a copy to the host while a graph is recorded");
    auto copy = std::make_unique<Copy>();
    const std::int64_t waits = stand_in_counts().waits;
    copy->value = tensor.to(at::kCPU);
    stand_in_counts().waits = waits;  // on a GPU it is under way while the host goes on
    return copy;
  }

 private:
  struct Recorded : Graph {
    std::vector<std::function<void()>> work;
    std::shared_ptr<GpuMemory::Pool> pool;
    void replay() override {
      for (const auto& call : work) call();
    }
  };
  struct Copy : Fetch {
    at::Tensor value;
    at::Tensor wait() override { return value; }
  };
};

}  // namespace

void before_write(const void* p) {
  if (recorded_work) GpuMemory::instance().before_write(p);
}

void at_replay(std::function<void()> work) {
  if (recorded_work) recorded_work->push_back(std::move(work));
}

void on_stand_in(std::function<void()> work) {
  work();
  at_replay(std::move(work));
}

void host_waits(const char* why) {
  if (recorded_work) throw std::logic_error(std::string("the host waits for the device while a graph is recorded: ") + why);
  ++std::atomic_ref(stand_in_counts().waits);  // ranks may be threads
}

StandInCounts& stand_in_counts() {
  static StandInCounts counts;
  return counts;
}

train::Accelerator& stand_in_accelerator() {
  static StandIn stand_in;
  return stand_in;
}

}  // namespace assay::test

// In place of the loaders' of the same names, which are in libraries and therefore left out.
namespace assay::quant::cuda {
const Opened& open_device() {
  static test::Kernels kernels;
  cuda_host::trust_other_memory(true);  // its memory is memory.h's
  static const Opened opened{&kernels, ""};
  return opened;
}
}  // namespace assay::quant::cuda

namespace assay::train {
const OpenedGpu& open_gpu() {
  static const OpenedGpu opened{&test::stand_in_accelerator(), ""};
  return opened;
}
}  // namespace assay::train
