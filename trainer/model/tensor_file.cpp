#include "trainer/model/tensor_file.h"

#include <ATen/ATen.h>

#include <cstring>
#include <stdexcept>

namespace assay::train {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

at::Tensor read_tensor(const support::TensorView& from, const std::string& where, const std::string& name) {
  at::ScalarType type;
  if (from.dtype == "F32") {
    type = at::kFloat;
  } else if (from.dtype == "BF16") {
    type = at::kBFloat16;
  } else if (from.dtype == "F16") {
    type = at::kHalf;
  } else {
    throw std::runtime_error(where + ": " + name + " has dtype " + from.dtype + " (F32, BF16 and F16 are read)");
  }
  // Bytes of a file need not be aligned for their type: copied before they are read as numbers.
  at::Tensor raw = at::empty(from.shape, at::TensorOptions(type));
  if (from.bytes != raw.nbytes()) throw std::runtime_error(where + ": " + name + " has a wrong number of bytes");
  if (from.bytes > 0) std::memcpy(raw.mutable_data_ptr(), from.data, from.bytes);
  return raw;
}

}  // namespace assay::train
