// Tensors out of safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "support/safetensors.h"

namespace assay::train {

// A copy in the file's dtype: F32, BF16 or F16. Throws std::runtime_error "WHERE: NAME …" for another one.
at::Tensor read_tensor(const support::TensorView& view, const std::string& where, const std::string& name);

// "[3, 4]"
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace assay::train
