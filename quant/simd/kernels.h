// The loops over one chunk, one set a processor, and the job that they work on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/fake_quantize.h"

namespace assay::quant::simd {

// Blocks along rows that a chunk has at most: its input is still in the first-level cache when it is rounded.
constexpr int lanes = 64;
// Columns that a strip has at most, and through a buffer.
constexpr int strip_lanes = 512, buffered_strip_lanes = 128;

// What bf16_tables.h finds once for a matrix and keeps.
struct Bf16Tables {
  enum class State { unknown, usable, unusable } state = State::unknown;
  std::int32_t first[8];
  std::int16_t levels[7][8];
  struct alignas(64) Table {
    std::uint8_t place[16], low[16], high[16];
  } of_mantissa[8];
};

struct Job {
  Spec spec;
  float tensor_max;  // A, whatever its scope, but for Scope::row
  ConstView in;
  View out;
  int axis;
  std::int64_t first_row;
  bool count;                  // whether to count saturated elements
  bool stream;                 // whether results go past the caches, but for those in a buffer (where in == out)
  std::int64_t saturated = 0;  // result
  Bf16Tables tables{};
};

// Whether an element is looked at for its block's maximum and its rounding, and for nothing else.
constexpr bool plain(const Job& job) {
  return !job.count && job.spec.mode != Mode::te46 && job.spec.mode != Mode::te46_mae;
}

struct Kernels {
  float (*finite_max)(const ConstView& x);
  // n elements along a row from (r, c) on, to fp32 in a buffer and back.
  void (*load)(const ConstView& x, std::int64_t r, std::int64_t c, std::int64_t n, float* to);
  void (*store)(const View& x, std::int64_t r, std::int64_t c, std::int64_t n, const float* from);
  // n <= lanes whole blocks of 16 or 32, one after the other in memory, under the tensor's (or row's) maximum `a`.
  // in == out is allowed. `index`: the first element's place in the matrix.
  void (*blocks_of_16)(Job& job, float a, const float* in, float* out, int n, std::int64_t index);
  void (*blocks_of_32)(Job& job, float a, const float* in, float* out, int n, std::int64_t index);
  // The same for `rows` rows of n blocks of 16 each, rows * n <= lanes, each row under its own maximum.
  void (*rows_of_blocks)(Job& job, const float* in, float* out, int rows, int n, std::int64_t index);
  // A strip of `height` rows (a block, or less) and `width` <= strip_lanes columns: each column is a block, or every 16
  // a tile.
  void (*strip)(Job& job, const float* in, std::ptrdiff_t in_stride, float* out, std::ptrdiff_t out_stride, int height,
                int width, std::int64_t index);
  // The same for bf16 where it lies, of finite elements, when plain(job). False, and nothing done, when there is NaN or
  // Inf.
  bool (*bf16_blocks_of_16)(Job& job, float a, const std::uint16_t* in, std::uint16_t* out, int n, std::int64_t index);
  bool (*bf16_blocks_of_32)(Job& job, float a, const std::uint16_t* in, std::uint16_t* out, int n, std::int64_t index);
  bool (*bf16_strip)(Job& job, const std::uint16_t* in, std::ptrdiff_t in_stride, std::uint16_t* out,
                     std::ptrdiff_t out_stride, int height, int width, std::int64_t index);
};

extern const Kernels generic;
#if defined(__x86_64__)
extern const Kernels avx2, avx512;
#endif

}  // namespace assay::quant::simd
