// Products on a GPU, of host matrices: what is packed lies in device memory, activations and results go to and fro.
#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "quant/cuda/loader.h"
#include "quant/product/fp4_layout.h"
#include "quant/product/multiplier.h"

namespace assay::quant::product {
namespace {

struct Gpu {
  cuda::Device* device = nullptr;
  cuda::Products* products = nullptr;
  std::string missing;
};

const Gpu& gpu() {
  static const Gpu found = [] {
    const cuda::Opened& opened = cuda::open_device();
    Gpu gpu{opened.device, nullptr, opened.missing};
    if (gpu.device) gpu.products = gpu.device->products(gpu.missing);
    return gpu;
  }();
  return found;
}

// Memory of the device.
class Memory {
 public:
  explicit Memory(std::int64_t bytes) : at_(gpu().device->allocate(static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1)))) {}
  Memory(const void* from, std::int64_t bytes) : Memory(bytes) {
    if (bytes > 0) gpu().device->upload(at_, from, static_cast<std::size_t>(bytes));
  }
  ~Memory() { gpu().device->release(at_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  const std::uint8_t* get() const { return static_cast<const std::uint8_t*>(at_); }
  void* get() { return at_; }

 private:
  void* at_;
};

class Bf16 : public Multiplier {
 public:
  Bf16(const void* b, std::int64_t k, std::int64_t n, bool transposed)
      : k_(k), n_(n), transposed_(transposed), b_(b, 2 * k * n) {}
  void run(const void* a, std::int64_t m, float* y) const override {
    const Memory from(a, 2 * m * k_);
    Memory to(4 * m * n_);
    gpu().products->bf16(from.get(), b_.get(), transposed_, m, n_, k_, static_cast<float*>(to.get()));
    gpu().device->synchronize();
    gpu().device->download(y, to.get(), static_cast<std::size_t>(4 * m * n_));
  }
  void unpack(void* to) const override { gpu().device->download(to, b_.get(), static_cast<std::size_t>(2 * k_ * n_)); }
  std::string implementation() const override { return gpu().products->name() + ", bf16"; }

 private:
  std::int64_t k_, n_;
  bool transposed_;
  Memory b_;
};

class Fp4 : public Multiplier {
 public:
  Fp4(const void* b, std::int64_t k, std::int64_t n) : layout_{n, k}, b_(b, layout_.bytes()) {}
  void run(const void* a, std::int64_t m, float* y) const override {
    const Fp4Layout rows{m, layout_.cols};
    const std::int64_t n = layout_.rows, wide = layout_.padded_rows();
    const Memory from(a, rows.bytes());
    Memory to(4 * m * wide);
    gpu().products->fp4({from.get(), from.get() + rows.code_bytes()}, {b_.get(), b_.get() + layout_.code_bytes()}, m, wide,
                        layout_.padded_cols(), static_cast<float*>(to.get()));
    gpu().device->synchronize();
    if (wide == n) return gpu().device->download(y, to.get(), static_cast<std::size_t>(4 * m * n));
    std::vector<float> all(static_cast<std::size_t>(m * wide));
    gpu().device->download(all.data(), to.get(), all.size() * sizeof(float));
    for (std::int64_t r = 0; r < m; ++r) std::copy_n(all.data() + r * wide, n, y + r * n);
  }
  void unpack(void*) const override { throw std::logic_error("NVFP4 leaves nothing to fp64"); }
  std::string implementation() const override { return gpu().products->name() + ", NVFP4"; }

 private:
  Fp4Layout layout_;
  Memory b_;
};

}  // namespace

std::string cuda_missing(bool fp4) {
  if (!gpu().products) return gpu().missing;
  return fp4 ? gpu().products->fp4_missing() : "";
}
std::string cuda_version() { return gpu().products ? gpu().products->name() : "cuBLASLt"; }

std::unique_ptr<Multiplier> cuda_bf16(const void* b, std::int64_t k, std::int64_t n, bool transposed) {
  return std::make_unique<Bf16>(b, k, n, transposed);
}
std::unique_ptr<Multiplier> cuda_fp4(const void* b, std::int64_t k, std::int64_t n) { return std::make_unique<Fp4>(b, k, n); }

}  // namespace assay::quant::product
