// In this program the runs of tests/trainer/grpo are runs with train.device = "cuda".
#include <ATen/Parallel.h>

#include "tests/trainer/grpo/tiny_run.h"

namespace assay::test {
namespace {
[[maybe_unused]] const bool set = [] {
  tiny_device = "cuda";
  at::set_num_threads(1);  // operations this small would spend their time waiting for each other's threads
  return true;
}();
}  // namespace
}  // namespace assay::test
