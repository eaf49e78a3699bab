#include "quant/fake_quantize.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <vector>

#include "quant/block.h"
#include "quant/reference.h"

namespace assay::quant {
namespace {

using namespace block;

struct Job {
  Spec spec;
  float tensor_max;
  const float* in;
  float* out;
  std::int64_t rows, cols;
  int axis;
  bool count;                  // whether to count saturated elements
  std::int64_t saturated = 0;  // result
};

// Blocks (axis 1) or columns (axis 0) whose scales are computed together: the divisions then vectorise, and the input
// is still in the first-level cache when its elements are rounded.
constexpr int lanes = 64;

ASSAY_QUANT_INLINE std::int32_t max_bits(const float* x, std::int64_t n) {
  std::int32_t m = 0;
  for (std::int64_t i = 0; i < n; ++i) m = larger(m, abs_bits(x[i]));
  return m;
}

ASSAY_QUANT_INLINE float finite_max_of(const float* x, std::int64_t n) {
  std::int32_t m = max_bits(x, n);
  if (m >= infinity_bits) {
    m = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t bits = abs_bits(x[i]);
      m = larger(m, bits < infinity_bits ? bits : 0);
    }
  }
  return float_of(m);
}

template <bool Count>
ASSAY_QUANT_INLINE float element(float x, float encode, float decode, std::int32_t& saturated) {
  const float q = round_e2m1(x * encode);
  if constexpr (Count) saturated += abs_bits(q) == 0x40c00000;
  return q * decode;
}

// n <= lanes whole blocks, one after the other in memory.
template <int B, bool Count, class Rule>
ASSAY_QUANT_INLINE void consecutive_blocks(Job& job, const Rule& rule, float tensor_max, const float* in, float* out,
                                           int n) {
  std::int32_t maxima[lanes];
  float encode[lanes], decode[lanes];
  std::int32_t worst = 0;
  for (int b = 0; b < n; ++b) {
    std::int32_t m = 0;
#pragma GCC unroll 1  // or 16 steps are unrolled before the vectoriser sees them
    for (int i = 0; i < B; ++i) m = larger(m, abs_bits(in[b * B + i]));
    maxima[b] = m;
    worst = larger(worst, m);
  }
  if (worst >= infinity_bits) {
    for (int b = 0; b < n; ++b) job.saturated += reference_block(job.spec, tensor_max, in + b * B, out + b * B, B, 1);
    return;
  }
  for (int b = 0; b < n; ++b) {
    const Scale scale = rule(float_of(maxima[b]));
    encode[b] = scale.encode;
    decode[b] = scale.decode;
  }
  std::int32_t saturated = 0;
  for (int b = 0; b < n; ++b) {
    const float to_code = encode[b], from_code = decode[b];
#pragma GCC unroll 1
    for (int i = 0; i < B; ++i) out[b * B + i] = element<Count>(in[b * B + i], to_code, from_code, saturated);
  }
  job.saturated += saturated;
}

// n elements along memory: whole blocks, then a partial one, padded with zeros.
template <int B, bool Count, class Rule>
ASSAY_QUANT_INLINE void line(Job& job, const Rule& rule, float tensor_max, const float* in, float* out,
                             std::int64_t n) {
  const std::int64_t whole = n / B;
  for (std::int64_t b = 0; b < whole; b += lanes) {
    consecutive_blocks<B, Count>(job, rule, tensor_max, in + b * B, out + b * B,
                                 static_cast<int>(std::min<std::int64_t>(lanes, whole - b)));
  }
  const int rest = static_cast<int>(n - whole * B);
  if (rest > 0) {
    float buffer[B] = {};
    for (int i = 0; i < rest; ++i) buffer[i] = in[whole * B + i];
    consecutive_blocks<B, Count>(job, rule, tensor_max, buffer, buffer, 1);
    for (int i = 0; i < rest; ++i) out[whole * B + i] = buffer[i];
  }
}

// One strip of height <= B rows and width <= lanes columns; each column is a block.
template <bool Count, class Rule>
ASSAY_QUANT_INLINE void column_blocks(Job& job, const Rule& rule, const float* in, float* out, int height, int width) {
  const std::ptrdiff_t stride = job.cols;
  std::int32_t maxima[lanes] = {};
  float encode[lanes], decode[lanes];
  for (int r = 0; r < height; ++r) {
    const float* row = in + r * stride;
    for (int c = 0; c < width; ++c) maxima[c] = larger(maxima[c], abs_bits(row[c]));
  }
  std::int32_t worst = 0;
  for (int c = 0; c < width; ++c) worst = larger(worst, maxima[c]);
  if (worst >= infinity_bits) {
    for (int c = 0; c < width; ++c) {
      job.saturated += reference_block(job.spec, job.tensor_max, in + c, out + c, height, stride);
    }
    return;
  }
  for (int c = 0; c < width; ++c) {
    const Scale scale = rule(float_of(maxima[c]));
    encode[c] = scale.encode;
    decode[c] = scale.decode;
  }
  std::int32_t saturated = 0;
  for (int r = 0; r < height; ++r) {
    const float* from = in + r * stride;
    float* to = out + r * stride;
    for (int c = 0; c < width; ++c) to[c] = element<Count>(from[c], encode[c], decode[c], saturated);
  }
  job.saturated += saturated;
}

template <int B, bool Count, class Rule>
ASSAY_QUANT_INLINE void matrix(Job& job) {
  if (job.axis == 0) {
    const Rule rule(job.tensor_max);
    for (std::int64_t r = 0; r < job.rows; r += B) {
      const int height = static_cast<int>(std::min<std::int64_t>(B, job.rows - r));
      for (std::int64_t c = 0; c < job.cols; c += lanes) {
        const int width = static_cast<int>(std::min<std::int64_t>(lanes, job.cols - c));
        const std::int64_t at = r * job.cols + c;
        column_blocks<Count>(job, rule, job.in + at, job.out + at, height, width);
      }
    }
  } else if (job.spec.scope == Scope::row && job.spec.mode == Mode::te) {
    for (std::int64_t r = 0; r < job.rows; ++r) {
      const float row_max = finite_max_of(job.in + r * job.cols, job.cols);
      line<B, Count>(job, Rule(row_max), row_max, job.in + r * job.cols, job.out + r * job.cols, job.cols);
    }
  } else {
    const Rule rule(job.tensor_max);
    // Rows of whole blocks are one long line.
    const bool joined = job.cols % B == 0;
    const std::int64_t lines = joined ? 1 : job.rows, length = joined ? job.rows * job.cols : job.cols;
    for (std::int64_t r = 0; r < lines; ++r) {
      line<B, Count>(job, rule, job.tensor_max, job.in + r * length, job.out + r * length, length);
    }
  }
}

template <bool Count>
ASSAY_QUANT_INLINE void by_mode(Job& job) {
  switch (job.spec.mode) {
    case Mode::te: matrix<16, Count, Te>(job); break;
    case Mode::torchao_one_level: matrix<16, Count, OneLevel>(job); break;
    case Mode::floor: matrix<32, Count, Floor>(job); break;
  }
}

// Everything above is inlined into these, so each holds the code for its own processor.
void run_generic(Job& job) { job.count ? by_mode<true>(job) : by_mode<false>(job); }
float finite_max_generic(const float* x, std::int64_t n) { return finite_max_of(x, n); }

#if defined(__x86_64__)
#define ASSAY_AVX2 __attribute__((target("arch=x86-64-v3")))
ASSAY_AVX2 void run_avx2(Job& job) { job.count ? by_mode<true>(job) : by_mode<false>(job); }
ASSAY_AVX2 float finite_max_avx2(const float* x, std::int64_t n) { return finite_max_of(x, n); }
#endif

void run_reference(Job& job) {
  const int block_size = job.spec.block();
  if (job.axis == 0) {
    for (std::int64_t r = 0; r < job.rows; r += block_size) {
      const int n = static_cast<int>(std::min<std::int64_t>(block_size, job.rows - r));
      for (std::int64_t c = 0; c < job.cols; ++c) {
        const std::int64_t at = r * job.cols + c;
        job.saturated += reference_block(job.spec, job.tensor_max, job.in + at, job.out + at, n, job.cols);
      }
    }
    return;
  }
  for (std::int64_t r = 0; r < job.rows; ++r) {
    const float* row = job.in + r * job.cols;
    float a = job.tensor_max;
    if (job.spec.scope == Scope::row) {
      a = 0;
      for (std::int64_t c = 0; c < job.cols; ++c) {
        if (std::isfinite(row[c])) a = std::max(a, std::fabs(row[c]));
      }
    }
    for (std::int64_t c = 0; c < job.cols; c += block_size) {
      const int n = static_cast<int>(std::min<std::int64_t>(block_size, job.cols - c));
      job.saturated += reference_block(job.spec, a, row + c, job.out + r * job.cols + c, n, 1);
    }
  }
}

constexpr std::array<std::string_view, 3> path_names{"reference", "generic", "avx2"};

}  // namespace

bool available(Path path) {
  if (path != Path::avx2) return true;
#if defined(__x86_64__)
  static const bool yes = __builtin_cpu_supports("x86-64-v3");
  return yes;
#else
  return false;
#endif
}

Path best_path() { return available(Path::avx2) ? Path::avx2 : Path::generic; }

std::optional<Path> parse_path(std::string_view name) {
  for (std::size_t i = 0; i < path_names.size(); ++i) {
    if (path_names[i] == name) return static_cast<Path>(i);
  }
  return std::nullopt;
}

std::string_view name(Path path) { return path_names[static_cast<std::size_t>(path)]; }

float finite_max(const float* x, std::int64_t n) {
#if defined(__x86_64__)
  if (available(Path::avx2)) return finite_max_avx2(x, n);
#endif
  return finite_max_generic(x, n);
}

void fake_quantize_piece(const Spec& spec, float tensor_max, const float* in, float* out, std::int64_t rows,
                         std::int64_t cols, int axis, ErrorStats* stats, Path path) {
  assert(axis == 0 || axis == 1);
  assert(rows >= 0 && cols >= 0);
  assert((spec.mode == Mode::floor) == (spec.format == Format::mxfp4));
  assert(!(spec.scope == Scope::row && axis == 0));
  assert(available(path));
  Job job{spec, tensor_max, in, out, rows, cols, axis, stats != nullptr};
  std::vector<float> before;
  if (stats && in == out) before.assign(in, in + rows * cols);
  switch (path) {
    case Path::reference: run_reference(job); break;
    case Path::generic: run_generic(job); break;
    case Path::avx2:
#if defined(__x86_64__)
      run_avx2(job);
#endif
      break;
  }
  if (stats) {
    accumulate(*stats, before.empty() ? in : before.data(), out, rows * cols);
    stats->saturated += job.saturated;
  }
}

void fake_quantize(const Spec& spec, const float* in, float* out, std::int64_t rows, std::int64_t cols, int axis,
                   ErrorStats* stats) {
  const float tensor_max = needs_tensor_max(spec) ? finite_max(in, rows * cols) : 0;
  fake_quantize_piece(spec, tensor_max, in, out, rows, cols, axis, stats);
}

}  // namespace assay::quant
