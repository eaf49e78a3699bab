#include "quant/torch/parallel.h"

#include <ATen/Parallel.h>

#ifndef _OPENMP
#error "without -fopenmp at::parallel_for is a loop on one thread"
#endif

namespace assay {

void over_rows(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& f) {
  if (n <= 0) return;
  if (n <= grain || at::get_num_threads() == 1 || at::in_parallel_region())
    f(0, n);
  else
    at::parallel_for(0, n, grain, f);
}

}  // namespace assay
