// quant_cuda_bench: every kernel's speed as a share of a device copy of the same bytes, measured in the same process.
// Without a GPU it says SKIPPED and why.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "quant/cuda/loader.h"
#include "quant/fake_quantize.h"

namespace {

using namespace assay::quant;
using cuda::Device;

// Seconds for one call: the best of several rounds, each long enough for the clock, after one call to warm up.
template <class F>
double seconds(Device& device, F&& f) {
  f();
  device.synchronize();
  double best = 1e9;
  for (int round = 0; round < 7; ++round) {
    constexpr int calls = 50;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) f();
    device.synchronize();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count() / calls);
  }
  return best;
}

struct Case {
  const char* name;
  Spec spec;
  int axis;
  bool with_max;  // the tensor's maximum is found first, in the time measured
};

int run() {
  const cuda::Opened& opened = cuda::open_device();
  if (!opened.device) {
    std::printf("SKIPPED: quant_cuda_bench: %s\n", opened.missing.c_str());
    return 0;
  }
  Device& device = *opened.device;
  std::printf("%s\nshare = time of a device copy of the same bytes / time of the kernel\n", device.name().c_str());

  const Spec te, row{.scope = Scope::row}, fixed{.scope = Scope::fixed, .static_max = 5};
  const Spec te46{.mode = Mode::te46, .scope = Scope::fixed, .static_max = 5};
  const Spec ct{.mode = Mode::ct, .scope = Scope::fixed, .static_max = 5};
  const Spec stochastic{.scope = Scope::fixed, .rounding = Rounding::stochastic, .static_max = 5, .seed = 1};
  const Spec tiles{.scope = Scope::fixed, .tiles = true, .static_max = 5};
  const Spec floor{.format = Format::mxfp4, .mode = Mode::floor};
  const std::vector<Case> cases{
      {"te, maximum first", te, 1, true}, {"te, scope static", fixed, 1, false}, {"te, scope row", row, 1, false},
      {"te, columns", fixed, 0, false},   {"te, 16x16 tiles", tiles, 1, false},
      {"te, stochastic", stochastic, 1, false},
      {"te46", te46, 1, false},           {"ct", ct, 1, false},                  {"floor", floor, 1, false},
      {"floor, columns", floor, 0, false}};

  std::printf("%-20s %-5s %12s %12s %8s\n", "kernel", "type", "elements", "G elements/s", "share");
  for (const std::int64_t rows : {1024, 16384}) {  // in the second-level cache, and beyond it
    const std::int64_t cols = 8192, n = rows * cols;
    const std::vector<float> x = [&] {
      std::vector<float> values(static_cast<std::size_t>(n));
      std::uint32_t state = 1;
      for (float& v : values) {
        state = state * 1664525u + 1013904223u;
        v = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-30f;
      }
      return values;
    }();
    for (const Type type : {Type::fp32, Type::bf16}) {
      const std::size_t bytes = static_cast<std::size_t>(n) * (type == Type::fp32 ? 4 : 2);
      std::vector<std::uint16_t> narrow;
      if (type == Type::bf16) {
        for (float v : x) narrow.push_back(static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, v) >> 16));
      }
      void* in = device.allocate(bytes);
      void* out = device.allocate(bytes);
      auto* max = static_cast<float*>(device.allocate(sizeof(float)));
      device.upload(in, type == Type::bf16 ? static_cast<const void*>(narrow.data()) : x.data(), bytes);
      const cuda::Matrix matrix{.type = type, .rows = rows, .cols = cols, .stride = cols};
      const double copy = seconds(device, [&] { device.copy(out, in, bytes); });
      for (const Case& c : cases) {
        const double took = seconds(device, [&] {
          if (c.with_max) device.finite_max(matrix, in, max);
          device.fake_quantize(c.spec, matrix, in, out, c.axis, max);
        });
        std::printf("%-20s %-5s %12lld %12.1f %7.1f%%\n", c.name, std::string(name(type)).c_str(),
                    static_cast<long long>(n), static_cast<double>(n) / took * 1e-9, 100 * copy / took);
      }
      device.release(in);
      device.release(out);
      device.release(max);
    }
  }
  return 0;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quant_cuda_bench: %s\n", error.what());
    return 1;
  }
}
