// The kernels around bodies.h, their launches, and the Device that libassay_cuda.so hands out.
#include <limits>
#include <stdexcept>
#include <vector>

#include <cuda_runtime.h>

#include "quant/cuda/dispatch.h"
#include "quant/cuda/module.h"
#include "quant/cuda/products.h"

namespace assay::quant::cuda {
namespace {

constexpr unsigned all_lanes = 0xffffffffu;

__device__ __forceinline__ std::int64_t this_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// group: 0, a warp, or all threads of a block.
template <Type T, int B>
__global__ void __launch_bounds__(block_threads) row_blocks(const __grid_constant__ Job job, int group) {
  __shared__ std::int32_t warps[block_threads / 32];
  const std::int64_t thread = this_thread();
  if (thread >= RowBlocks<T, B>::threads(job, group)) return;  // with a group, by whole warps
  std::int32_t m = 0;
  if (group) m = __reduce_max_sync(all_lanes, RowBlocks<T, B>::largest(job, thread, group));
  if (group == block_threads) {
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = m;
    __syncthreads();
    for (const std::int32_t other : warps) m = block::larger(m, other);
  }
  RowBlocks<T, B>::run(job, thread, group, m);
}

template <Type T, int B>
__global__ void __launch_bounds__(block_threads) column_blocks(const __grid_constant__ Job job) {
  if (this_thread() < ColumnBlocks<T, B>::threads(job)) ColumnBlocks<T, B>::run(job, this_thread());
}

template <Type T, int B>
__global__ void __launch_bounds__(block_threads) packed_columns(const __grid_constant__ Job job) {
  if (this_thread() < PackedColumns<T, B>::threads(job)) PackedColumns<T, B>::run(job, this_thread());
}

template <bool Inverse>
__global__ void __launch_bounds__(block_threads) hadamard_groups(const __grid_constant__ Job job, std::uint16_t signs) {
  if (this_thread() < Hadamard<Inverse>::threads(job)) Hadamard<Inverse>::run(job, this_thread(), signs);
}

// A part for each thread; the host adds them, in order.
template <Type T>
__global__ void __launch_bounds__(block_threads) errors_of(const __grid_constant__ ErrorJob job, std::int64_t threads,
                                                           ErrorStats* parts) {
  if (this_thread() < threads) parts[this_thread()] = part_of_errors<T>(job, this_thread(), threads);
}

template <Type T>
__global__ void __launch_bounds__(block_threads) tile_rows(const __grid_constant__ Job job) {
  // Threads beyond the last tile take part in the exchange, with a row of zeros.
  TileRow<T> row;
  auto tile = row.load(job, this_thread());
  for (int half = 8; half > 0; half /= 2) {
    tile.largest = block::larger(tile.largest, __shfl_xor_sync(all_lanes, tile.largest, half));
    tile.strays |= __shfl_xor_sync(all_lanes, tile.strays, half) != 0;
  }
  auto sums = row.errors(job, tile);
  // tile_sum()'s order: a + b is b + a to the bit, so all lanes get its result.
  for (int half = 8; half > 0; half /= 2) {
    sums.first += __shfl_xor_sync(all_lanes, sums.first, half);
    sums.second += __shfl_xor_sync(all_lanes, sums.second, half);
  }
  row.finish(job, tile, sums);
}

template <Type T>
__global__ void __launch_bounds__(block_threads) finite_max_of(const __grid_constant__ Job job, std::int32_t* max) {
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int32_t m = __reduce_max_sync(all_lanes, part_of_finite_max<T>(job, this_thread(), threads));
  if (threadIdx.x % 32 == 0) atomicMax(max, m);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

template <class Kernel, class... Arguments>
void launch(Kernel kernel, std::int64_t threads, void* stream, const Arguments&... arguments) {
  const std::int64_t blocks = blocks_in(threads, block_threads);
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<int>::max()) throw std::runtime_error("CUDA: the matrix is too large for one launch");
  // Not <<<...>>>: what is plain C++ runs on the host too, by tests/cuda_host.
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(block_threads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

// What dispatch.h asks to be run, as kernels on a stream.
struct Kernels {
  void* stream;

  template <Type T, int B>
  void rows(const Job& job, int group) const {
    launch(row_blocks<T, B>, RowBlocks<T, B>::threads(job, group), stream, job, group);
  }
  template <Type T, int B>
  void columns(const Job& job) const {
    launch(column_blocks<T, B>, ColumnBlocks<T, B>::threads(job), stream, job);
  }
  template <Type T, int B>
  void packed_columns(const Job& job) const {
    launch(cuda::packed_columns<T, B>, PackedColumns<T, B>::threads(job), stream, job);
  }
  template <bool Inverse>
  void hadamard(const Job& job, std::uint16_t signs) const {
    launch(hadamard_groups<Inverse>, Hadamard<Inverse>::threads(job), stream, job, signs);
  }
  template <Type T>
  void tiles(const Job& job) const {
    launch(tile_rows<T>, TileRow<T>::threads(job), stream, job);
  }
  template <Type T>
  void finite_max(const Job& job, std::int64_t threads, std::int32_t* max) const {
    launch(finite_max_of<T>, threads, stream, job, max);
  }
};

// The parts that the threads leave in device memory, added up on the host.
struct ErrorSums {
  void* stream;
  double damping;
  mutable ErrorStats total{};

  template <Type T>
  void errors(const ErrorJob& job, std::int64_t threads) const {
    total.damping = damping;
    if (threads == 0) return;
    std::vector<ErrorStats> parts(static_cast<std::size_t>(threads));
    const std::size_t bytes = parts.size() * sizeof(ErrorStats);
    const auto on = static_cast<cudaStream_t>(stream);
    void* memory = nullptr;
    check(cudaMallocAsync(&memory, bytes, on), "cudaMallocAsync");
    launch(errors_of<T>, threads, stream, job, threads, static_cast<ErrorStats*>(memory));
    check(cudaMemcpyAsync(parts.data(), memory, bytes, cudaMemcpyDeviceToHost, on), "cudaMemcpyAsync");
    check(cudaFreeAsync(memory, on), "cudaFreeAsync");
    check(cudaStreamSynchronize(on), "cudaStreamSynchronize");
    for (const ErrorStats& part : parts) add(total, part);
  }
};

class Cuda : public Device {
 public:
  Cuda(std::string name, int processors, int major) : name_(std::move(name)), processors_(processors), major_(major) {}

  std::string name() const override { return name_; }

  void* allocate(std::size_t bytes) override {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
  }
  void release(void* memory) override { check(cudaFree(memory), "cudaFree"); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy to the device");
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy from the device");
  }
  void copy(void* to, const void* from, std::size_t bytes, void* stream) override {
    const auto on = static_cast<cudaStream_t>(stream);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, on), "cudaMemcpyAsync");
  }
  void synchronize(void* stream) override {
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize");
  }

  void finite_max(const Matrix& matrix, const void* x, float* max, void* stream) override {
    // Absolute values order like their bits, and those of 0 are 0.
    auto* bits = reinterpret_cast<std::int32_t*>(max);
    check(cudaMemsetAsync(bits, 0, sizeof *bits, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
    // No more threads than are resident at once.
    dispatch_finite_max(matrix, x, bits, static_cast<std::int64_t>(processors_) * 2048, Kernels{stream});
  }

  void fake_quantize(const Spec& spec, const Matrix& matrix, const void* in, void* out, int axis,
                     const float* tensor_max, void* stream) override {
    dispatch_fake_quantize(spec, matrix, in, out, axis, tensor_max, Kernels{stream});
  }

  void operand(const Spec& spec, const Matrix& matrix, const void* in, void* out, float* factors, const float* tensor_max,
               void* stream) override {
    dispatch_operand(spec, matrix, in, out, factors, tensor_max, Kernels{stream});
  }

  void pack(const Spec& spec, const Matrix& matrix, const void* in, int axis, std::uint8_t* codes, std::uint8_t* scales,
            float* row_maxima, const float* tensor_max, void* stream) override {
    dispatch_pack(spec, matrix, in, axis, codes, scales, row_maxima, tensor_max, Kernels{stream});
  }

  ErrorStats errors(const Matrix& matrix, const void* x, const void* dq, const std::uint8_t* codes, double damping,
                    void* stream) override {
    // Threads enough to keep the memory busy; what they leave is some megabytes.
    const ErrorSums sums{stream, damping};
    dispatch_errors(matrix, x, dq, codes, damping, static_cast<std::int64_t>(processors_) * 1024, sums);
    return sums.total;
  }

  void hadamard(const Matrix& matrix, const void* in, void* out, std::uint16_t signs, bool inverse, void* stream) override {
    dispatch_hadamard(matrix, in, out, signs, inverse, Kernels{stream});
  }

  Products* products(std::string& missing) override { return open_products(major_, missing); }

 private:
  std::string name_;
  int processors_, major_;
};

}  // namespace
}  // namespace assay::quant::cuda

__attribute__((visibility("default"))) assay::quant::cuda::Device* ASSAY_CUDA_ENTRY(std::string& missing) {
  int devices = 0, current = 0;
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && devices == 0)) {
    missing = "no GPU: the NVIDIA driver sees none";
    return nullptr;
  }
  if (error == cudaSuccess) error = cudaGetDevice(&current);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, current);
  if (error != cudaSuccess) {
    missing = std::string("no GPU that CUDA 13.0 can use: ") + cudaGetErrorString(error);
    return nullptr;
  }
  const std::string name = std::string(properties.name) + ", compute capability " + std::to_string(properties.major) +
                           "." + std::to_string(properties.minor);
  if (properties.major < 8) {
    missing = "no GPU for the CUDA kernels, which need compute capability 8.0: this one is " + name;
    return nullptr;
  }
  static assay::quant::cuda::Cuda device(name, properties.multiProcessorCount, properties.major);
  return &device;
}
