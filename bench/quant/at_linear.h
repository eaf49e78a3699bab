// at::linear in fp32, for comparison; no LibTorch header needed to call it.
#pragma once

#include <cstdint>
#include <memory>

namespace assay::bench {

class AtLinear {
 public:
  AtLinear(const float* x, const float* w, std::int64_t m, std::int64_t k, std::int64_t n, int threads);
  ~AtLinear();
  void run();

 private:
  struct Tensors;
  std::unique_ptr<Tensors> tensors_;
};

}  // namespace assay::bench
