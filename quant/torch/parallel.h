// Work shared among LibTorch's threads, and the one file that shares it.
//
// at::parallel_for is a template: compiled in a file without -fopenmp it is a plain loop, and says nothing. So nothing
// here calls it but parallel.cpp, which is compiled with the flag and does not compile without.
#pragma once

#include <cstdint>
#include <functional>

namespace assay {

// f(begin, end) over pieces of [0, n), each at least `grain` long but the last, on as many threads as
// at::get_num_threads() says; on this thread alone where n <= grain or where the caller is such a piece already.
// Results must not depend on the split. What f throws is thrown here, one of them where several do.
void over_rows(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& f);

}  // namespace assay
