#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "trainer/model/kernels/kernels.h"

namespace assay::train::kernels {

namespace {
const Table& choose() {
  const char* asked = std::getenv("ASSAY_KERNELS");
  const auto allowed = [asked](const char* name) { return !asked || std::strcmp(asked, name) == 0; };
  using quant::gemm::available;
  using quant::gemm::Path;
  if (allowed("avx512") && available(Path::avx512)) return avx512();
  if (allowed("avx2") && available(Path::avx2)) return avx2();
  if (allowed("portable")) return portable();
  throw std::runtime_error(std::string("ASSAY_KERNELS=") + asked + ": this processor has no such kernels; portable runs everywhere");
}
}  // namespace

const Table& active() {
  static const Table& table = choose();
  return table;
}

}  // namespace assay::train::kernels
