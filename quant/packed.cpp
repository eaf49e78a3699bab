#include "quant/packed.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>

#include "quant/block.h"
#include "quant/reference.h"
#include "quant/simd/kernels.h"
#include "quant/simd/pack_kernels.h"

namespace assay::quant {
namespace {

using simd::Above;
using simd::lanes;
using simd::PackKernels;

// The path `reference` packs by reference_block() alone; what it has of its own is below.
const PackKernels& pack_kernels(Path path) {
#if defined(__x86_64__)
  if (path == Path::avx512) return simd::pack_avx512;
  if (path == Path::avx2) return simd::pack_avx2;
#endif
  return simd::pack_generic;
}

const simd::Kernels& load_kernels(Path path) {
#if defined(__x86_64__)
  if (path == Path::avx512) return simd::avx512;
  if (path == Path::avx2) return simd::avx2;
#endif
  return simd::generic;
}

struct PackJob {
  const Spec& spec;
  float a;  // of the tensor
  const ConstView& in;
  int axis;
  std::int64_t first_row;
  std::uint8_t* codes;
  std::uint8_t* scales;
  float* row_maxima;

  std::int64_t code_bytes() const { return (in.cols + 1) / 2; }
  std::int64_t blocks() const { return block_count(spec, in.cols); }
  float row_max(std::int64_t r) const { return row_maxima ? row_maxima[r] : a; }
  // The place of the scales of the strip that begins with row r: Packed::scales as rows of blocks, or of columns.
  void put_strip_scales(const std::uint8_t* bytes, std::int64_t r, std::int64_t c, int height, int width) const {
    if (axis == 0) {
      std::copy_n(bytes, width, scales + r / spec.block() * in.cols + c);
      return;
    }
    for (int i = 0; i < height; ++i)  // tiles
      for (int b = 0; b < width; b += 16) scales[(r + i) * blocks() + (c + b) / 16] = bytes[b];
  }
};

// n elements along row r, from its start on: whole blocks, then a partial one, padded with zeros.
void pack_line(const PackKernels& k, const simd::Kernels& load, const PackJob& job, std::int64_t r, std::int64_t n) {
  const int block = job.spec.block();
  const std::int64_t index = (job.first_row + r) * job.in.cols;
  std::uint8_t* codes = job.codes + r * job.code_bytes();
  std::uint8_t* scales = job.scales + r * job.blocks();
  const bool direct = job.in.type == Type::fp32 && job.in.col_stride == 1;
  float buffer[lanes * 32];
  std::uint8_t padded[lanes * 16];
  for (std::int64_t c = 0; c < n; c += lanes * block) {
    const std::int64_t m = std::min<std::int64_t>(lanes * block, n - c);
    const int count = static_cast<int>((m + block - 1) / block);
    const float* from = buffer;
    if (direct && m == count * block) {
      from = static_cast<const float*>(job.in.data) + r * job.in.row_stride + c;
    } else {
      load.load(job.in, r, c, m, buffer);
      std::fill(buffer + m, buffer + count * block, 0.0f);
    }
    if (m == count * block) {
      k.pack_blocks(job.spec, job.row_max(r), from, codes + c / 2, scales + c / block, count, index + c);
    } else {
      k.pack_blocks(job.spec, job.row_max(r), from, padded, scales + c / block, count, index + c);
      if (m % 2 == 1) padded[m / 2] &= 15;
      std::copy_n(padded, (m + 1) / 2, codes + c / 2);
    }
  }
}

void pack_rows(const PackKernels& k, const simd::Kernels& load, const PackJob& job) {
  const ConstView& x = job.in;
  // Rows of whole blocks, one after the other in memory, are one long line.
  const bool joined = !job.row_maxima && x.cols % job.spec.block() == 0 && x.rows > 0 && x.col_stride == 1 &&
                      x.row_stride == x.cols;
  const std::int64_t lines = joined ? 1 : x.rows, length = joined ? x.rows * x.cols : x.cols;
  for (std::int64_t r = 0; r < lines; ++r) pack_line(k, load, job, r, length);
}

void pack_strips(const PackKernels& k, const simd::Kernels& load, const PackJob& job) {
  const ConstView& x = job.in;
  const int block = job.spec.block();
  float buffer[32 * lanes];
  std::uint8_t bytes[lanes];
  for (std::int64_t r = 0; r < x.rows; r += block) {
    const int height = static_cast<int>(std::min<std::int64_t>(block, x.rows - r));
    for (std::int64_t c = 0; c < x.cols; c += lanes) {
      const int width = static_cast<int>(std::min<std::int64_t>(lanes, x.cols - c));
      for (int i = 0; i < height; ++i) load.load(x, r + i, c, width, buffer + i * lanes);
      k.pack_strip(job.spec, job.a, buffer, job.codes + r * job.code_bytes() + c / 2, job.code_bytes(), bytes, height,
                   width, (job.first_row + r) * x.cols + c, x.cols);
      job.put_strip_scales(bytes, r, c, height, width);
    }
  }
}

// Block by block with the oracle and the table codecs.
void pack_reference(const PackJob& job) {
  const ConstView& x = job.in;
  const int block = job.spec.block();
  const int height = job.spec.tiles || job.axis == 0 ? block : 1, width = job.spec.tiles || job.axis == 1 ? block : 1;
  std::fill_n(job.codes, x.rows * job.code_bytes(), std::uint8_t{0});
  for (std::int64_t r = 0; r < x.rows; r += height) {
    for (std::int64_t c = 0; c < x.cols; c += width) {
      const int h = static_cast<int>(std::min<std::int64_t>(height, x.rows - r));
      const int w = static_cast<int>(std::min<std::int64_t>(width, x.cols - c));
      std::array<float, 256> values{};
      std::array<std::uint8_t, 256> codes{};
      for (int i = 0; i < h; ++i)
        for (int j = 0; j < w; ++j) values[static_cast<std::size_t>(i * w + j)] = element(x, r + i, c + j);
      const BlockShape shape{h, w, w, 1, (job.first_row + r) * x.cols + c, x.cols};
      const BlockResult result =
          reference_block(job.spec, job.row_max(r), values.data(), values.data(), shape, codes.data());
      const std::uint8_t byte = job.spec.format == Format::nvfp4 ? (result.poisoned ? 0x7f : encode_e4m3(result.stored))
                                                                 : (result.poisoned ? 0xff : encode_e8m0(result.stored));
      for (int i = 0; i < h; ++i) {
        for (int j = 0; j < w; ++j) {
          job.codes[(r + i) * job.code_bytes() + (c + j) / 2] |=
              static_cast<std::uint8_t>(codes[static_cast<std::size_t>(i * w + j)] << ((c + j) % 2 * 4));
          if (job.axis == 1) job.scales[(r + i) * job.blocks() + (c + j) / block] = byte;
          else job.scales[(r + i) / block * x.cols + c + j] = byte;
        }
      }
    }
  }
}

void unpack(Above above, const float* row_maxima, const std::uint8_t* codes, const std::uint8_t* scales,
            std::int64_t rows, std::int64_t cols, int axis, float* out, Path path) {
  assert(available(path));
  const PackKernels& k = pack_kernels(path);
  const Spec spec{above.format};  // for the size of its blocks
  const int block = spec.block();
  const std::int64_t code_bytes = (cols + 1) / 2, blocks = block_count(spec, cols);
  if (axis == 0) {
    for (std::int64_t r = 0; r < rows; r += block) {
      const int height = static_cast<int>(std::min<std::int64_t>(block, rows - r));
      for (std::int64_t c = 0; c < cols; c += lanes) {
        const int width = static_cast<int>(std::min<std::int64_t>(lanes, cols - c));
        k.unpack_strip(above, codes + r * code_bytes + c / 2, code_bytes, scales + r / block * cols + c, height, width,
                       out + r * cols + c, cols);
      }
    }
    return;
  }
  const bool joined = !row_maxima && cols % block == 0 && rows > 0;
  const std::int64_t lines = joined ? 1 : rows, length = joined ? rows * cols : cols;
  for (std::int64_t r = 0; r < lines; ++r) {
    if (row_maxima) above.above = row_maxima[r];
    for (std::int64_t c = 0; c < length; c += lanes * block) {
      const int n = static_cast<int>(std::min<std::int64_t>(lanes * block, length - c));
      k.unpack_blocks(above, codes + r * code_bytes + c / 2, scales + r * blocks + c / block, (n + block - 1) / block, n,
                      out + r * length + c);
    }
  }
}

}  // namespace

void pack_piece(const Spec& spec, float tensor_max, const ConstView& in, int axis, std::int64_t first_row,
                std::uint8_t* codes, std::uint8_t* scales, float* row_maxima, Path path) {
  require(spec, axis);
  assert(in.rows == 0 || (row_maxima != nullptr) == (spec.scope == Scope::row));
  assert(available(path));
  for (std::int64_t r = 0; row_maxima && r < in.rows; ++r) {
    const std::int64_t size = in.type == Type::fp32 ? 4 : 2;
    ConstView row = in;
    row.rows = 1;
    row.data = static_cast<const std::byte*>(in.data) + r * in.row_stride * size;
    row_maxima[r] = finite_max(row);
  }
  const float a = spec.scope == Scope::fixed ? spec.static_max : tensor_max;
  const PackJob job{spec, a, in, axis, first_row, codes, scales, row_maxima};
  if (path == Path::reference) pack_reference(job);
  else if (axis == 0 || spec.tiles) pack_strips(pack_kernels(path), load_kernels(path), job);
  else pack_rows(pack_kernels(path), load_kernels(path), job);
}

void dequantize_piece(const Spec& spec, float tensor_max, const float* row_maxima, const std::uint8_t* codes,
                      const std::uint8_t* scales, std::int64_t rows, std::int64_t cols, int axis, float* out, Path path) {
  const float a = spec.scope == Scope::fixed ? spec.static_max : tensor_max;
  unpack({spec.format, spec.mode, a, false}, row_maxima, codes, scales, rows, cols, axis, out, path);
}

float tensor_divisor(const Spec& spec, float tensor_max) {
  return block::with_rule(spec.mode, [&](auto tag) {
    const typename decltype(tag)::type rule(spec.scope == Scope::fixed ? spec.static_max : tensor_max);
    return rule.divisor();
  });
}

float tensor_factor(const Spec& spec, float tensor_max) {
  return block::with_rule(spec.mode, [&](auto tag) {
    const typename decltype(tag)::type rule(spec.scope == Scope::fixed ? spec.static_max : tensor_max);
    return rule.tensor_factor();
  });
}

void dequantize_divided(Format format, float divisor, const std::uint8_t* codes, const std::uint8_t* scales,
                        std::int64_t rows, std::int64_t cols, int axis, float* out, Path path) {
  unpack({format, Mode::te, divisor, true}, nullptr, codes, scales, rows, cols, axis, out, path);
}

Packed pack(const Spec& spec, const ConstView& in, int axis) {
  Packed packed{spec, axis, in.rows, in.cols, {}, {}, {}};
  packed.codes.resize(static_cast<std::size_t>(code_count(in.rows, in.cols)));
  packed.scales.resize(static_cast<std::size_t>(scale_count(spec, in.rows, in.cols, axis)));
  const float tensor_max = needs_tensor_max(spec) ? finite_max(in) : spec.static_max;
  if (spec.scope == Scope::row) packed.maxima.resize(static_cast<std::size_t>(in.rows));
  else if (has_tensor_scale(spec.mode)) packed.maxima.assign(1, tensor_max);
  pack_piece(spec, tensor_max, in, axis, 0, packed.codes.data(), packed.scales.data(),
             spec.scope == Scope::row ? packed.maxima.data() : nullptr);
  return packed;
}

Packed pack(const Spec& spec, const float* in, std::int64_t rows, std::int64_t cols, int axis) {
  return pack(spec, view(in, rows, cols), axis);
}

void dequantize(const Packed& packed, float* out) {
  const bool by_row = packed.spec.scope == Scope::row;
  const float tensor_max = packed.maxima.empty() ? 0 : packed.maxima.front();
  dequantize_piece(packed.spec, tensor_max, by_row ? packed.maxima.data() : nullptr, packed.codes.data(),
                   packed.scales.data(), packed.rows, packed.cols, packed.axis, out);
}

}  // namespace assay::quant
