// What the program holds on the heap, whoever allocated it: tensors, vectors and what libraries need for a while.
#pragma once

#include <cstdint>

namespace assay::test {

bool heap_is_counted();     // false under AddressSanitizer, which has an allocator of its own
std::int64_t heap_bytes();  // now
std::int64_t heap_peak();   // since the last start_heap_peak()
void start_heap_peak();

}  // namespace assay::test
