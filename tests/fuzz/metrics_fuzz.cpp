#include <cstdint>

#include "runner_case.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  assay::fuzz::check_metrics_line({reinterpret_cast<const char*>(data), size});
  return 0;
}
