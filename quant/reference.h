// The scalar reference: the oracle of every faster path. One loop per formula, readable beside docs/quantization.md,
// with table codecs instead of block.h's bit arithmetic, so that the two can check each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/fake_quantize.h"
#include "quant/formats.h"
#include "quant/stats.h"

namespace assay::quant {

// One block: n <= spec.block() elements `stride` apart, the missing ones taken for zeros. `tensor_max` is the finite
// maximum of the tensor, or of the row with Scope::row; only `te` uses it. in == out is allowed.
// Returns how many elements have code ±6.
int reference_block(const Spec& spec, float tensor_max, const float* in, float* out, int n, std::ptrdiff_t stride);

// fake_quantize() by reference_block() alone.
void fake_quantize_reference(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols,
                             int axis, ErrorStats* stats = nullptr);

}  // namespace assay::quant
