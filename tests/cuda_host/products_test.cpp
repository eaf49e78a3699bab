// quant/cuda/products.cpp against products in double, with cuBLASLt's stand-in: what is asked of the library, not what a GPU
// makes of it. fp4_layout_test.cpp, in the same program, goes the whole way from Unit::cuda_bf16 and Unit::cuda_fp4.
#include <dlfcn.h>

#include <array>
#include <cmath>
#include <functional>
#include <memory>

#include "catch.h"
#include "cuda_host/device.h"
#include "data.h"
#include "quant/cuda/loader.h"
#include "quant/half.h"
#include "quant/packed.h"
#include "quant/product/fp4_layout.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

struct Memory {
  cuda::Device& device;
  std::unique_ptr<void, std::function<void(void*)>> at;
  Memory(cuda::Device& d, std::size_t bytes) : device(d), at(d.allocate(bytes), [&d](void* p) { d.release(p); }) {}
  template <class Value>
  Memory(cuda::Device& d, const std::vector<Value>& from) : Memory(d, from.size() * sizeof(Value)) {
    d.upload(at.get(), from.data(), from.size() * sizeof(Value));
  }
  std::vector<float> floats(std::size_t n) const {
    std::vector<float> to(n);
    device.download(to.data(), at.get(), n * sizeof(float));
    return to;
  }
};

// |got - a b^T| within what an fp32 sum of k products may round off; a [m, k] and b [n, k] are exact.
void near_product(const std::vector<float>& got, const std::vector<double>& a, const std::vector<double>& b, std::int64_t m,
                  std::int64_t n, std::int64_t k) {
  double worst = 0;
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        const double product = a[static_cast<std::size_t>(i * k + l)] * b[static_cast<std::size_t>(j * k + l)];
        sum += product;
        size += std::abs(product);
      }
      const double most = size * static_cast<double>(k) * 0x1p-24 + 1e-300;
      const double error = std::abs(got[static_cast<std::size_t>(i * n + j)] - sum) / most;
      worst = error <= worst ? worst : error;  // NaN wins
    }
  CHECK(worst <= 1);
}

cuda::Products* products_or_skip() {
  const cuda::Opened& opened = cuda::open_device();
  if (!opened.device) {
    assay::test::report_skipped("products.cpp with a stand-in for cuBLASLt", opened.missing);
    return nullptr;
  }
  std::string missing;
  cuda::Products* products = opened.device->products(missing);
  CHECK(missing.empty());
  return products;
}

int descriptors_alive() {
  void* library = dlopen(ASSAY_TORCH_STAND_IN "/nvidia/cu13/lib/libcublasLt.so.13", RTLD_NOW | RTLD_NOLOAD);
  REQUIRE(library != nullptr);
  const auto alive = reinterpret_cast<int (*)()>(dlsym(library, "assay_cublaslt_alive"));
  REQUIRE(alive != nullptr);
  return alive();
}

}  // namespace

TEST_CASE("products of bf16 by cuBLASLt's calls: any sizes, b as it is and transposed") {
  cuda::Products* products = products_or_skip();
  if (!products) return;
  cuda::Device& device = cuda::host_device();
  std::uint32_t seed = 0;
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1, 1, 1}, {1, 5, 7}, {3, 1, 4}, {5, 3, 1}, {7, 33, 19}, {64, 48, 96}})
    for (const bool transposed : {true, false}) {
      CAPTURE(m, n, k, transposed);
      std::vector<std::uint16_t> a(static_cast<std::size_t>(m * k)), b(static_cast<std::size_t>(n * k));
      std::vector<double> exact_a(a.size()), exact_b(b.size());  // of b [n, k], whichever way it is stored
      const auto x = normal(m * k, ++seed), w = normal(n * k, ++seed);
      for (std::size_t i = 0; i < a.size(); ++i) exact_a[i] = block::from_bf16(a[i] = block::to_bf16(x[i]));
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t l = 0; l < k; ++l) {
          const std::uint16_t value = block::to_bf16(w[static_cast<std::size_t>(j * k + l)]);
          exact_b[static_cast<std::size_t>(j * k + l)] = block::from_bf16(value);
          b[static_cast<std::size_t>(transposed ? j * k + l : l * n + j)] = value;
        }
      const Memory at_a(device, a), at_b(device, b), y(device, static_cast<std::size_t>(m * n) * sizeof(float));
      products->bf16(at_a.at.get(), at_b.at.get(), transposed, m, n, k, static_cast<float*>(y.at.get()));
      near_product(y.floats(static_cast<std::size_t>(m * n)), exact_a, exact_b, m, n, k);
    }
  products->bf16(nullptr, nullptr, true, 0, 4, 4, nullptr);
  products->bf16(nullptr, nullptr, true, 4, 0, 4, nullptr);
  CHECK(descriptors_alive() == 0);
  CHECK(assay::cuda_host::allocations() == 0);
}

TEST_CASE("products of FP4 by cuBLASLt's calls: codes and scales where fp4_layout.h puts them") {
  cuda::Products* products = products_or_skip();
  if (!products) return;
  CHECK(products->fp4_missing().empty());
  cuda::Device& device = cuda::host_device();
  std::uint32_t seed = 100;
  // Rows and blocks to fill a tile of scales in part, whole, and more than one each way.
  using Sizes = std::array<std::int64_t, 3>;
  for (const auto& [m, n, k] : {Sizes{1, 32, 32}, {3, 64, 96}, {33, 160, 64}, {130, 288, 224}, {257, 32, 1056}}) {
    CAPTURE(m, n, k);
    std::vector<std::uint8_t> operands[2];
    std::vector<double> exact[2];
    for (int side = 0; side < 2; ++side) {
      const std::int64_t rows = side ? n : m;
      auto x = normal(rows * k, ++seed);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] *= static_cast<float>(1 + i / 16 * 37 % 101);  // scales that differ
      const float max = finite_max(x.data(), rows * k);
      std::vector<double> factor;
      product::quantize_fp4({}, max, x.data(), rows, k, 0, operands[side], factor);
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(code_count(rows, k)));
      std::vector<std::uint8_t> scales(static_cast<std::size_t>(rows * k / 16));
      pack_piece({}, max, view(static_cast<const float*>(x.data()), rows, k), 1, 0, codes.data(), scales.data(), nullptr);
      std::vector<float> values(x.size());
      dequantize_divided(Format::nvfp4, 1.0f, codes.data(), scales.data(), rows, k, 1, values.data());
      exact[side].assign(values.begin(), values.end());
    }
    const product::Fp4Layout of_a{m, k}, of_b{n, k};
    const Memory a(device, operands[0]), b(device, operands[1]), y(device, static_cast<std::size_t>(m * n) * sizeof(float));
    const auto matrix = [](const Memory& memory, const product::Fp4Layout& layout) {
      return cuda::Fp4Matrix{memory.at.get(), static_cast<const std::uint8_t*>(memory.at.get()) + layout.code_bytes()};
    };
    products->fp4(matrix(a, of_a), matrix(b, of_b), m, n, k, static_cast<float*>(y.at.get()));
    near_product(y.floats(static_cast<std::size_t>(m * n)), exact[0], exact[1], m, n, k);
  }
  products->fp4({}, {}, 0, 32, 32, nullptr);
  CHECK_THROWS_WITH(products->fp4({}, {}, 1, 32, 16, nullptr), Catch::Contains("multiples of 32"));
  CHECK_THROWS_WITH(products->fp4({}, {}, 1, 31, 32, nullptr), Catch::Contains("multiples of 32"));
  CHECK(descriptors_alive() == 0);
  CHECK(assay::cuda_host::allocations() == 0);
}

TEST_CASE("what cuBLASLt refuses is said with the call's name, and nothing is kept") {
  cuda::Products* products = products_or_skip();
  if (!products) return;
  cuda::Device& device = cuda::host_device();
  const Memory memory(device, 4096);
  auto* at = static_cast<std::uint8_t*>(memory.at.get());
  // Less aligned than the heuristics were promised.
  auto* y = reinterpret_cast<float*>(at);
  CHECK_THROWS_WITH(products->bf16(at + 2, at, true, 4, 4, 4, y), "cuBLAS: cublasLtMatmul: status 7");
  CHECK_THROWS_WITH(products->fp4({at, at + 8}, {at, at}, 4, 32, 32, y), "cuBLAS: cublasLtMatmul: status 7");
  CHECK(descriptors_alive() == 0);
}
