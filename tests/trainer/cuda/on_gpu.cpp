// Addresses are those of tests/trainer/gpu: what is the host's, no copy between GPUs takes.
#include "tests/trainer/cuda/runtime.h"
#include "tests/trainer/gpu/memory.h"

namespace assay::test {
namespace {
[[maybe_unused]] const bool set = [] {
  cuda::set_behind([](const void* p) { return GpuMemory::instance().behind(const_cast<void*>(p)); });
  return true;
}();
}  // namespace
}  // namespace assay::test
