#include "quant/product/fp4_layout.h"

#include <algorithm>

#include "quant/packed.h"

namespace assay::quant::product {

std::string_view fp4_objection(const Spec& spec, int axis) {
  if (spec.format != Format::nvfp4) return "native FP4 products are for nvfp4; mxfp4 goes through bf16";
  if (axis != 1) return "native FP4 products take blocks along K only (axis 1)";
  return "";
}

void quantize_fp4(const Spec& spec, float a, const float* x, std::int64_t rows, std::int64_t cols, std::int64_t first_row,
                  std::vector<std::uint8_t>& to, std::vector<double>& factor) {
  const Fp4Layout layout{rows, cols};
  const std::int64_t stride = (cols + 1) / 2, blocks = block_count(spec, cols);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(code_count(rows, cols)));
  std::vector<std::uint8_t> scales(static_cast<std::size_t>(scale_count(spec, rows, cols, 1)));
  std::vector<float> maxima(static_cast<std::size_t>(spec.scope == Scope::row ? rows : 0));
  pack_piece(spec, a, view(x, rows, cols), 1, first_row, codes.data(), scales.data(), maxima.empty() ? nullptr : maxima.data());
  to.assign(static_cast<std::size_t>(layout.bytes()), 0);
  factor.resize(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(codes.data() + r * stride, stride, to.data() + r * layout.code_stride());
    for (std::int64_t b = 0; b < blocks; ++b)
      to[static_cast<std::size_t>(layout.code_bytes() + layout.scale_at(r, b))] = scales[static_cast<std::size_t>(r * blocks + b)];
    factor[static_cast<std::size_t>(r)] = tensor_factor(spec, maxima.empty() ? a : maxima[static_cast<std::size_t>(r)]);
  }
}

}  // namespace assay::quant::product
