// libFuzzer's entry: `make fuzz`. A finding is printed and aborts; libFuzzer keeps its bytes in the working folder.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "quant_invariants.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string finding = assay::fuzz::quant_finding(data, size);
  if (!finding.empty()) {
    std::fprintf(stderr, "FINDING: %s\n", finding.c_str());
    std::abort();
  }
  return 0;
}
