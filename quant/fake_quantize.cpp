#include "quant/fake_quantize.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "quant/reference.h"
#include "quant/simd/kernels.h"
#include "quant/simd/stream.h"

namespace assay::quant {
namespace {

constexpr std::array<std::string_view, 4> path_names{"reference", "generic", "avx2", "avx512"};

// All elements in fp32, row by row: statistics have one order of summation, whatever the memory.
std::vector<float> values(const ConstView& x) {
  std::vector<float> all;
  all.reserve(static_cast<std::size_t>(x.rows * x.cols));
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; ++c) all.push_back(element(x, r, c));
  return all;
}

using simd::Job;
using simd::Kernels;
using simd::lanes;

const Kernels& kernels(Path path) {
#if defined(__x86_64__)
  if (path == Path::avx512) return simd::avx512;
  if (path == Path::avx2) return simd::avx2;
#endif
  return simd::generic;
}

// From this size of the output on results go past the caches: their lines then need not be read first, and do not push
// out the input. In place they do not: the line has just been read.
constexpr std::int64_t streamed_bytes = 16 << 20;
// A strip's input is read twice: it stays in half of a first-level cache.
constexpr std::int64_t strip_bytes = 16 << 10;
std::int64_t size(Type type) { return type == Type::fp32 ? 4 : 2; }

// Unit strides of fp32, and mostly of bf16, are worked on where they lie; all else goes through a buffer in the
// first-level cache.
bool unit(const Job& job) { return job.in.col_stride == 1 && job.out.col_stride == 1; }
bool direct(const Job& job) { return job.in.type == Type::fp32 && unit(job); }
bool direct_bf16(const Job& job) { return job.in.type == Type::bf16 && unit(job) && simd::plain(job); }
template <class T>
const T* at(const ConstView& x, std::int64_t r, std::int64_t c) {
  return static_cast<const T*>(x.data) + r * x.row_stride + c;
}
template <class T>
T* at(const View& x, std::int64_t r, std::int64_t c) {
  return static_cast<T*>(x.data) + r * x.row_stride + c;
}

ConstView row(const ConstView& x, std::int64_t r) {
  ConstView one = x;
  one.rows = 1;
  if (x.type == Type::fp32) one.data = static_cast<const float*>(x.data) + r * x.row_stride;
  else one.data = static_cast<const std::uint16_t*>(x.data) + r * x.row_stride;
  return one;
}

// `count` whole blocks from (r, c) on, where they lie. False: not possible, nothing done.
bool whole_blocks(const Kernels& k, Job& job, float a, std::int64_t r, std::int64_t c, int count, std::int64_t index) {
  using Bf16 = std::uint16_t;
  const bool of_16 = job.spec.block() == 16;
  if (direct(job)) {
    const auto blocks = of_16 ? k.blocks_of_16 : k.blocks_of_32;
    blocks(job, a, at<float>(job.in, r, c), at<float>(job.out, r, c), count, index);
    return true;
  }
  const auto blocks = of_16 ? k.bf16_blocks_of_16 : k.bf16_blocks_of_32;
  return direct_bf16(job) && blocks(job, a, at<Bf16>(job.in, r, c), at<Bf16>(job.out, r, c), count, index);
}

// n elements along row r: whole blocks, then a partial one, padded with zeros.
void line(const Kernels& k, Job& job, float a, std::int64_t r, std::int64_t n) {
  const int block = job.spec.block();
  const auto blocks = block == 16 ? k.blocks_of_16 : k.blocks_of_32;
  const std::int64_t index = (job.first_row + r) * job.in.cols;
  float buffer[lanes * 32];
  for (std::int64_t c = 0; c < n; c += lanes * block) {
    const std::int64_t m = std::min<std::int64_t>(lanes * block, n - c);
    const std::int64_t padded = (m + block - 1) / block * block;
    const int count = static_cast<int>(padded / block);
    if (padded == m && whole_blocks(k, job, a, r, c, count, index + c)) continue;
    k.load(job.in, r, c, m, buffer);
    std::fill(buffer + m, buffer + padded, 0.0f);
    blocks(job, a, buffer, buffer, count, index + c);
    k.store(job.out, r, c, m, buffer);
  }
}

void along_rows(const Kernels& k, Job& job) {
  const ConstView& x = job.in;
  // Rows of whole blocks, one after the other in memory, are one long line.
  const auto contiguous = [&](const auto& v) { return v.col_stride == 1 && v.row_stride == v.cols; };
  const bool joined = x.cols % job.spec.block() == 0 && x.rows > 0 && contiguous(x) && contiguous(job.out);
  if (job.spec.scope == Scope::row) {
    const std::int64_t blocks = x.cols / job.spec.block(), index = job.first_row * x.cols;
    std::int64_t r = 0;
    if (joined && direct(job) && 0 < blocks && blocks <= simd::lanes)  // as many rows as a chunk holds
      for (std::int64_t n; r < x.rows; r += n) {
        n = std::min(simd::lanes / blocks, x.rows - r);
        k.rows_of_blocks(job, at<float>(x, r, 0), at<float>(job.out, r, 0), static_cast<int>(n), static_cast<int>(blocks), index + r * x.cols);
      }
    for (; r < x.rows; ++r) line(k, job, k.finite_max(row(x, r)), r, x.cols);
    return;
  }
  const std::int64_t lines = joined ? 1 : x.rows, length = joined ? x.rows * x.cols : x.cols;
  for (std::int64_t r = 0; r < lines; ++r) line(k, job, job.tensor_max, r, length);
}

// A strip through a buffer, some columns at a time.
void buffered_strip(const Kernels& k, Job& job, std::int64_t r, std::int64_t first, int height, std::int64_t end) {
  constexpr std::int64_t most = simd::buffered_strip_lanes;
  float buffer[32 * most];
  for (std::int64_t c = first; c < end; c += most) {
    const int width = static_cast<int>(std::min(most, end - c));
    for (int i = 0; i < height; ++i) k.load(job.in, r + i, c, width, buffer + i * most);
    k.strip(job, buffer, most, buffer, most, height, width, (job.first_row + r) * job.in.cols + c);
    for (int i = 0; i < height; ++i) k.store(job.out, r + i, c, width, buffer + i * most);
  }
}

void down_columns(const Kernels& k, Job& job) {
  using Bf16 = std::uint16_t;
  const ConstView& x = job.in;
  const std::int64_t block = job.spec.block();
  const std::int64_t columns = std::min<std::int64_t>(simd::strip_lanes, strip_bytes / (block * size(x.type)));
  for (std::int64_t r = 0; r < x.rows; r += block) {
    const int height = static_cast<int>(std::min(block, x.rows - r));
    for (std::int64_t c = 0; c < x.cols; c += columns) {
      const int width = static_cast<int>(std::min(columns, x.cols - c));
      const std::int64_t index = (job.first_row + r) * x.cols + c, in = x.row_stride, out = job.out.row_stride;
      if (direct(job)) {
        k.strip(job, at<float>(x, r, c), in, at<float>(job.out, r, c), out, height, width, index);
      } else if (!direct_bf16(job) ||
                 !k.bf16_strip(job, at<Bf16>(x, r, c), in, at<Bf16>(job.out, r, c), out, height, width, index)) {
        buffered_strip(k, job, r, c, height, c + width);
      }
    }
  }
}

}  // namespace

bool available(Path path) {
#if defined(__x86_64__)
  static const bool v3 = __builtin_cpu_supports("x86-64-v3"), v4 = __builtin_cpu_supports("x86-64-v4");
#else
  static const bool v3 = false, v4 = false;
#endif
  return path == Path::avx512 ? v4 : path == Path::avx2 ? v3 : true;
}

Path best_path() {
  return available(Path::avx512) ? Path::avx512 : available(Path::avx2) ? Path::avx2 : Path::generic;
}

std::optional<Path> parse_path(std::string_view name) {
  for (std::size_t i = 0; i < path_names.size(); ++i) {
    if (path_names[i] == name) return static_cast<Path>(i);
  }
  return std::nullopt;
}

std::string_view name(Path path) { return path_names[static_cast<std::size_t>(path)]; }

float finite_max(const ConstView& x) { return kernels(best_path()).finite_max(x); }

float finite_max(const float* x, std::int64_t n) { return finite_max(view(x, 1, n)); }

void fake_quantize_piece(const Spec& spec, float tensor_max, const ConstView& in, const View& out, int axis,
                         std::int64_t first_row, ErrorStats* stats, Path path) {
  require(spec, axis);
  assert(in.rows >= 0 && in.cols >= 0 && in.rows == out.rows && in.cols == out.cols && in.type == out.type);
  assert(available(path));
  const bool stream = in.data != out.data && in.rows * in.cols * size(in.type) >= streamed_bytes;
  const float most = spec.scope == Scope::fixed ? spec.static_max : tensor_max;
  Job job{spec, most, in, out, axis, first_row, stats != nullptr, stream};
  std::vector<float> before;
  if (stats && in.data == out.data) before = values(in);
  if (path == Path::reference) {
    job.saturated = reference_piece(spec, tensor_max, in, out, axis, first_row);
  } else if (axis == 0 || spec.tiles) {
    down_columns(kernels(path), job);
  } else {
    along_rows(kernels(path), job);
  }
  if (stream) simd::end_streams();
  if (stats) {
    const std::vector<float> after = values(as_const(out));
    if (before.empty()) before = values(in);
    accumulate(*stats, before.data(), after.data(), static_cast<std::int64_t>(after.size()));
    stats->saturated += job.saturated;
  }
}

void fake_quantize(const Spec& spec, const ConstView& in, const View& out, int axis, ErrorStats* stats) {
  fake_quantize_piece(spec, needs_tensor_max(spec) ? finite_max(in) : 0, in, out, axis, 0, stats);
}

void fake_quantize(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols, int axis,
                   ErrorStats* stats) {
  fake_quantize(spec, view(in, rows, cols), view(out, rows, cols), axis, stats);
}

void fake_quantize_piece(const Spec& spec, float tensor_max, const float* in, float* out, std::int64_t rows,
                         std::int64_t cols, int axis, ErrorStats* stats, Path path) {
  fake_quantize_piece(spec, tensor_max, view(in, rows, cols), view(out, rows, cols), axis, 0, stats, path);
}

}  // namespace assay::quant
