// What one thread of a kernel does, as host/device functions of a job and the thread's place in it. Plain C++, so that the
// kernels run on the host too (tests/cuda_host).
//
// A thread owns whole blocks: it loads them with 16-byte loads where they are whole and aligned, finds the maximum, the
// scale (block.h's rules) and the elements in registers, and stores once. No shared memory. Where several threads need
// a common number (a row's maximum, a tile's scale), a body comes in parts, and whoever calls them combines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/block.h"
#include "quant/cuda/codes.h"
#include "quant/cuda/words.h"
#include "quant/formats.h"

namespace assay::quant::cuda {

// A row-major matrix, rows `stride` elements apart, in and out alike. Plain data: a kernel's argument.
struct Job {
  Spec spec;
  const void* in = nullptr;
  void* out = nullptr;                // may be `in`
  std::int64_t rows = 0, cols = 0, stride = 0;
  // Places of elements, which stochastic rounding counts by: (r, c) is first_place + r * place_stride + c.
  std::int64_t first_place = 0, place_stride = 0;
  const float* tensor_max = nullptr;  // where the kernel runs; read for Scope::tensor where the mode has such a scale
  // Packing in place of `out`: two codes a byte, rows `code_stride` bytes apart; a byte a block, a tile's once for each of
  // its blocks along `scale_axis`; and for Scope::row the rows' maxima.
  std::uint8_t* codes = nullptr;
  std::uint8_t* scales = nullptr;
  float* row_maxima = nullptr;
  // An exact product's operand: `out` is bf16 and takes codes * block scales, this what stands above them: one number, or one
  // for each row with Scope::row.
  float* factors = nullptr;
  std::int64_t code_stride = 0;
  int scale_axis = 1;
};

// What the rules take for A, but for Scope::row.
ASSAY_QUANT_INLINE float tensor_max_of(const Job& job) {
  if (job.spec.scope == Scope::fixed) return job.spec.static_max;
  return has_tensor_scale(job.spec.mode) ? *job.tensor_max : 0.0f;
}

// ---- one block in registers ----

// Places of a block's elements in the matrix, counted along rows: first, first + step, ...
struct Places {
  std::int64_t first, step;
};

// NaN and Inf of a block: bit i for element i.
struct Strays {
  std::uint32_t all = 0, negative = 0;  // negative: -Inf
};
// Takes them out of v, leaving zeros, which change neither a maximum nor an error.
template <int B>
ASSAY_QUANT_INLINE Strays take_strays(float (&v)[B]) {
  static_assert(B <= 32);
  Strays strays;
  ASSAY_UNROLL
  for (int i = 0; i < B; ++i) {
    if (block::abs_bits(v[i]) < block::infinity_bits) continue;
    strays.all |= 1u << i;
    if (v[i] < 0) strays.negative |= 1u << i;
    v[i] = 0;
  }
  return strays;
}
// As NonFinite::hw_saturate asks: Inf becomes ±6, NaN +6.
template <int B>
ASSAY_QUANT_INLINE void put_strays(const Strays& strays, float (&q)[B]) {
  if (!strays.all) return;
  ASSAY_UNROLL
  for (int i = 0; i < B; ++i) {
    if (strays.all >> i & 1) q[i] = strays.negative >> i & 1 ? -6.0f : 6.0f;
  }
}

// Largest of the absolute values, as bits; with NaN or Inf among them it is infinity_bits or more.
template <int B>
ASSAY_QUANT_INLINE std::int32_t largest(const float (&v)[B]) {
  std::int32_t m = 0;
  ASSAY_UNROLL
  for (int i = 0; i < B; ++i) m = block::larger(m, block::abs_bits(v[i]));
  return m;
}
template <int B>
ASSAY_QUANT_INLINE std::int32_t largest_finite(float (&v)[B]) {
  std::int32_t m = largest(v);
  if (m >= block::infinity_bits) {
    take_strays(v);
    m = largest(v);
  }
  return m;
}

// Elements that lie beside each other go in pairs: the instruction that Blackwell GPUs have takes two.
ASSAY_QUANT_INLINE void round_pair(float& a, float& b) {
#ifdef ASSAY_FP4_INSTRUCTIONS
  const auto codes = __nv_cvt_float2_to_fp4x2(float2{a, b}, __NV_E2M1, cudaRoundNearest);
  const float2 both = __half22float2(__nv_cvt_fp4x2_to_halfraw2(codes, __NV_E2M1));
  a = both.x;
  b = both.y;
#else
  a = block::round_e2m1(a);
  b = block::round_e2m1(b);
#endif
}

// v, without NaN and Inf, becomes values of the E2M1 grid.
template <int B>
ASSAY_QUANT_INLINE void to_grid(const Spec& spec, float encode, bool divides, const Places& places, float (&v)[B]) {
  if (divides) {
    ASSAY_UNROLL
    for (int i = 0; i < B; ++i) v[i] = block::scaled<true>(v[i], encode);
  } else {
    ASSAY_UNROLL
    for (int i = 0; i < B; ++i) v[i] = block::scaled<false>(v[i], encode);
  }
  if (spec.rounding == Rounding::stochastic) {
    const std::uint64_t key = block::random_key(spec.seed);
    ASSAY_UNROLL
    for (int i = 0; i < B; ++i) {
      const auto place = static_cast<std::uint64_t>(places.first + i * places.step);
      v[i] = block::round_e2m1_stochastic(v[i], block::random_bits(key, place));
    }
  } else {
    ASSAY_UNROLL
    for (int i = 0; i < B; i += 2) round_pair(v[i], v[i + 1]);
  }
}

// Of the rules, those whose blocks have B elements.
template <int B, class F>
ASSAY_QUANT_INLINE decltype(auto) with_rule_of(Mode mode, F&& f) {
  static_assert(B == 16 || B == 32);
  if constexpr (B == 16) return block::with_nvfp4_rule(mode, f);
  else return block::with_mxfp4_rule(mode, f);
}

// v becomes values of the E2M1 grid, to be multiplied by scale.decode. Not sound: the block is poisoned, all of it is to
// become NaN, and the rest means nothing.
struct Quantized {
  bool sound;
  block::Scale scale;
};
template <int B>
ASSAY_QUANT_INLINE Quantized quantize_block(const Spec& spec, float tensor_max, const Places& places, float (&v)[B]) {
  std::int32_t m = largest(v);
  Strays strays;
  if (m >= block::infinity_bits) {
    if (spec.non_finite == NonFinite::propagate) return {false, {}};
    strays = take_strays(v);
    m = largest(v);
  }
  bool divides = false;
  const block::Scale scale = with_rule_of<B>(spec.mode, [&](auto tag) {
    using Rule = typename decltype(tag)::type;
    divides = Rule::divides;
    return block::choose(Rule(tensor_max), block::float_of(m), v, B, 1);
  });
  to_grid(spec, scale.encode, divides, places, v);
  put_strays(strays, v);
  return {true, scale};
}

template <int B>
ASSAY_QUANT_INLINE void multiply(float (&v)[B], float factor) {
  ASSAY_UNROLL
  for (int i = 0; i < B; ++i) v[i] *= factor;
}

// ---- blocks along rows ----

ASSAY_QUANT_INLINE std::int64_t blocks_in(std::int64_t n, int block) { return (n + block - 1) / block; }
ASSAY_QUANT_INLINE int block_length(std::int64_t left, int block) {
  return left < block ? static_cast<int>(left) : block;
}

template <Type T>
ASSAY_QUANT_INLINE const void* at(const void* p, std::int64_t i) {
  return static_cast<const typename Words<T>::Element*>(p) + i;
}
template <Type T>
ASSAY_QUANT_INLINE void* at(void* p, std::int64_t i) {
  return static_cast<typename Words<T>::Element*>(p) + i;
}

template <Type T, int B>
ASSAY_QUANT_INLINE void load_floats(const void* p, int n, float (&v)[B]) {
  constexpr int each = Words<T>::each, n_words = B / each;
  std::uint32_t words[n_words];
  load<T, n_words>(p, n, words);
  ASSAY_UNROLL
  for (int i = 0; i < n_words; ++i) Words<T>::widen(words[i], v + i * each);
}

// `sound` false: NaN all over.
template <Type T, int B>
ASSAY_QUANT_INLINE void store_floats(void* p, int n, bool sound, const float (&v)[B]) {
  constexpr int each = Words<T>::each, n_words = B / each;
  std::uint32_t words[n_words];
  ASSAY_UNROLL
  for (int i = 0; i < n_words; ++i) words[i] = sound ? Words<T>::narrow(v + i * each) : Words<T>::nan;
  store<T, n_words>(p, n, words);
}

// The block of `row` that begins at column `c`.
template <Type T, int B>
ASSAY_QUANT_INLINE void row_block(const Job& job, float tensor_max, std::int64_t row, std::int64_t c) {
  const int n = block_length(job.cols - c, B);
  const std::int64_t offset = row * job.stride + c;
  float v[B];
  load_floats<T>(at<T>(job.in, offset), n, v);
  const auto [sound, scale] =
      quantize_block(job.spec, tensor_max, {job.first_place + row * job.place_stride + c, 1}, v);
  if (job.factors) {
    multiply(v, scale.stored);  // at most 6 significant bits
    store_floats<Type::bf16>(at<Type::bf16>(job.out, offset), n, sound, v);
    return;
  }
  if (!job.codes) {
    multiply(v, scale.decode);
    store_floats<T>(at<T>(job.out, offset), n, sound, v);
    return;
  }
  ASSAY_UNROLL
  for (int i = 0; i < B; ++i) v[i] = sound ? v[i] : 0.0f;
  store_codes(job.codes + row * job.code_stride + c / 2, n, v);
  job.scales[row * blocks_in(job.cols, B) + c / B] = scale_byte<B>(sound, scale.stored);
}

// u / d; 64-bit division is slow on a GPU and seldom needed.
ASSAY_QUANT_INLINE std::int64_t quotient(std::int64_t u, std::int64_t d) {
  if (((u | d) >> 32) == 0) return static_cast<std::uint32_t>(u) / static_cast<std::uint32_t>(d);
  return u / d;
}

// Axis 1. group 0: one A for all, and a thread for each block. Otherwise (Scope::row, where the mode has such a scale) as
// many threads share a row: first they find its maximum, which the caller combines, then they quantize it, reading again
// what is in the cache by now.
template <Type T, int B>
struct RowBlocks {
  static ASSAY_QUANT_INLINE std::int64_t threads(const Job& job, int group) {
    return job.rows * (group ? group : blocks_in(job.cols, B));
  }
  static ASSAY_QUANT_INLINE std::int32_t largest(const Job& job, std::int64_t thread, int group) {
    const std::int64_t row = thread / group;
    std::int32_t m = 0;
    for (std::int64_t c = thread % group * B; c < job.cols; c += group * B) {
      float v[B];
      load_floats<T>(at<T>(job.in, row * job.stride + c), block_length(job.cols - c, B), v);
      m = block::larger(m, largest_finite(v));
    }
    return m;
  }
  static ASSAY_QUANT_INLINE void run(const Job& job, std::int64_t thread, int group, std::int32_t row_max) {
    const std::int64_t blocks = blocks_in(job.cols, B), row = quotient(thread, group ? group : blocks);
    const float tensor_max = group ? block::float_of(row_max) : tensor_max_of(job);
    const std::int64_t step = group ? group * B : job.cols;
    if (group && job.row_maxima && thread % group == 0) job.row_maxima[row] = tensor_max;
    if (job.factors && thread % (group ? group : threads(job, 0)) == 0) {
      job.factors[group ? row : 0] =
          with_rule_of<B>(job.spec.mode, [&](auto tag) { return typename decltype(tag)::type(tensor_max).tensor_factor(); });
    }
    for (std::int64_t c = (thread - row * (group ? group : blocks)) * B; c < job.cols; c += step) {
      row_block<T, B>(job, tensor_max, row, c);
    }
  }
};

// ---- blocks down columns ----

// A thread owns one word's columns, that is one or two, of a strip of B rows: a warp then reads whole lines of 128 bytes,
// and what a row's words need of registers is left for other threads.
template <Type T, int B>
struct ColumnBlocks {
  static constexpr int width = Words<T>::each;

  static ASSAY_QUANT_INLINE std::int64_t threads(const Job& job) {
    return blocks_in(job.rows, B) * blocks_in(job.cols, width);
  }
  static ASSAY_QUANT_INLINE void run(const Job& job, std::int64_t thread) {
    const std::int64_t groups = blocks_in(job.cols, width), strip = quotient(thread, groups), r0 = strip * B,
                       c0 = (thread - strip * groups) * width, offset = r0 * job.stride + c0;
    const int height = block_length(job.rows - r0, B), n = block_length(job.cols - c0, width);
    const void* in = at<T>(job.in, offset);
    void* out = at<T>(job.out, offset);
    // One question for all rows, so that all loads are on their way before the first is waited for.
    const bool whole = height == B && n == width && aligned(in, 4) && aligned(out, 4) && job.stride % width == 0;
    std::uint32_t words[B];
    ASSAY_UNROLL
    for (int r = 0; r < B; ++r) {
      const void* p = at<T>(in, r * job.stride);
      if (whole) load_aligned<1>(p, words + r);
      else load_elements<T, 1>(p, r < height ? n : 0, words + r);
    }
    quantize(job, tensor_max_of(job), job.first_place + r0 * job.place_stride + c0, words);
    ASSAY_UNROLL
    for (int r = 0; r < B; ++r) {
      void* p = at<T>(out, r * job.stride);
      if (whole) store_aligned<1>(p, words + r);
      else store_elements<T, 1>(p, r < height ? n : 0, words + r);
    }
  }

 private:
  static ASSAY_QUANT_INLINE void quantize(const Job& job, float tensor_max, std::int64_t first_place,
                                          std::uint32_t (&words)[B]) {
    float v[width][B], pair[width];
    ASSAY_UNROLL
    for (int r = 0; r < B; ++r) {
      Words<T>::widen(words[r], pair);
      ASSAY_UNROLL
      for (int j = 0; j < width; ++j) v[j][r] = pair[j];
    }
    std::uint32_t lost = 0;  // the bits of a word that belong to a poisoned column
    ASSAY_UNROLL
    for (int j = 0; j < width; ++j) {
      const auto [sound, scale] = quantize_block(job.spec, tensor_max, {first_place + j, job.place_stride}, v[j]);
      multiply(v[j], scale.decode);
      if (!sound) lost |= width == 1 ? ~0u : 0xffffu << (16 * j);
    }
    ASSAY_UNROLL
    for (int r = 0; r < B; ++r) {
      ASSAY_UNROLL
      for (int j = 0; j < width; ++j) pair[j] = v[j][r];
      words[r] = (Words<T>::narrow(pair) & ~lost) | (Words<T>::nan & lost);
    }
  }
};

// ---- 16x16 tiles ----

// Sixteen threads own a tile, each a row of it, which it keeps. The caller combines what load() and errors() give: the
// maxima, and the sums in tile_sum()'s order.
template <Type T>
struct TileRow {
  static constexpr int B = 16;
  float v[B];
  Strays strays;
  std::int64_t row = 0, c = 0;
  int n = 0;  // 0: below the matrix

  static ASSAY_QUANT_INLINE std::int64_t threads(const Job& job) {
    return blocks_in(job.rows, B) * blocks_in(job.cols, B) * B;
  }
  // This row's largest; and whether it holds NaN or Inf.
  struct Found {
    std::int32_t largest;
    bool strays;
  };
  ASSAY_QUANT_INLINE Found load(const Job& job, std::int64_t thread) {
    const std::int64_t tiles = blocks_in(job.cols, B), tile = thread / B, strip = quotient(tile, tiles);
    row = strip * B + thread % B;
    c = (tile - strip * tiles) * B;
    n = row < job.rows ? block_length(job.cols - c, B) : 0;
    load_floats<T>(at<T>(job.in, row * job.stride + c), n, v);
    strays = take_strays(v);
    return {cuda::largest(v), strays.all != 0};
  }
  // This row's errors under a rule's first and second candidate; zeros where the mode has one only.
  struct Errors {
    float first, second;
  };
  ASSAY_QUANT_INLINE Errors errors(const Job& job, const Found& tile) const {
    return with_rule_of<B>(job.spec.mode, [&](auto tag) -> Errors {
      using Rule = typename decltype(tag)::type;
      if constexpr (Rule::candidates == 2) {
        const Rule rule(tensor_max_of(job));
        const float am = block::float_of(tile.largest);
        return {block::error_sum(rule, rule(am), v, B, 1), block::error_sum(rule, rule.second(am), v, B, 1)};
      } else {
        return {0, 0};
      }
    });
  }
  ASSAY_QUANT_INLINE void finish(const Job& job, const Found& tile, const Errors& sums) {
    const bool sound = !tile.strays || job.spec.non_finite == NonFinite::hw_saturate;
    block::Scale scale{};
    if (sound) {
      bool divides = false;
      scale = with_rule_of<B>(job.spec.mode, [&](auto tag) {
        using Rule = typename decltype(tag)::type;
        const Rule rule(tensor_max_of(job));
        const float am = block::float_of(tile.largest);
        divides = Rule::divides;
        if constexpr (Rule::candidates == 2) {
          if (sums.second < sums.first) return rule.second(am);
        }
        return rule(am);
      });
      to_grid(job.spec, scale.encode, divides, {job.first_place + row * job.place_stride + c, 1}, v);
      put_strays(strays, v);
    }
    if (job.codes) {
      pack(job, sound, scale.stored);
      return;
    }
    if (sound) multiply(v, scale.decode);
    store_floats<T>(at<T>(job.out, row * job.stride + c), n, sound, v);
  }

 private:
  ASSAY_QUANT_INLINE void pack(const Job& job, bool sound, float stored) {
    if (n == 0) return;
    ASSAY_UNROLL
    for (int i = 0; i < B; ++i) v[i] = sound && i < n ? v[i] : 0.0f;
    store_codes(job.codes + row * job.code_stride + c / 2, n, v);
    const std::uint8_t byte = scale_byte<B>(sound, stored);
    if (job.scale_axis == 1) {
      job.scales[row * blocks_in(job.cols, B) + c / B] = byte;
    } else if (row % B == 0) {
      ASSAY_UNROLL
      for (int i = 0; i < B; ++i) {
        if (i < n) job.scales[row / B * job.cols + c + i] = byte;
      }
    }
  }
};

// ---- the Hadamard transform ----

// fp32; a thread owns 16 elements of a row.
template <bool Inverse>
struct Hadamard {
  static ASSAY_QUANT_INLINE std::int64_t threads(const Job& job) { return job.rows * (job.cols / 16); }
  static ASSAY_QUANT_INLINE void run(const Job& job, std::int64_t thread, std::uint16_t signs) {
    const std::int64_t groups = job.cols / 16, row = quotient(thread, groups), offset = row * job.stride + (thread - row * groups) * 16;
    float x[16];
    std::int32_t flip[16];
    ASSAY_UNROLL
    for (int j = 0; j < 16; ++j) flip[j] = block::hadamard_flip(signs, j);
    load_floats<Type::fp32>(at<Type::fp32>(job.in, offset), 16, x);
    block::hadamard<Inverse>(x, flip);
    store_floats<Type::fp32>(at<Type::fp32>(job.out, offset), 16, true, x);
  }
};

}  // namespace assay::quant::cuda
