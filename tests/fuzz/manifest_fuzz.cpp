// libFuzzer's entry for manifests of bundles: `cmake --build build/fuzz --target manifest_fuzz`.
#include <cstdio>
#include <cstdlib>

#include "manifest_invariants.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string finding = assay::fuzz::manifest_finding(data, size);
  if (!finding.empty()) {
    std::fprintf(stderr, "FINDING: %s\n", finding.c_str());
    std::abort();
  }
  return 0;
}
