// 32-bit words of a matrix: one fp32 element or two 16-bit ones; how they are loaded, widened, narrowed and stored.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/block.h"
#include "quant/formats.h"
#include "quant/half.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace assay::quant::cuda {

// `nan` is what every element of a poisoned block becomes, in all halves of a word.
template <Type T>
struct Words {
  static constexpr int each = 2;  // elements a word
  using Element = std::uint16_t;
  static constexpr std::uint32_t nan = T == Type::bf16 ? 0x7fc07fc0u : 0x7e007e00u;

  static ASSAY_QUANT_INLINE void widen(std::uint32_t word, float* v) {
    if constexpr (T == Type::bf16) {
      v[0] = block::from_bf16(static_cast<std::uint16_t>(word));
      v[1] = block::from_bf16(static_cast<std::uint16_t>(word >> 16));
    } else {
#ifdef __CUDA_ARCH__
      const __half2_raw raw{static_cast<std::uint16_t>(word), static_cast<std::uint16_t>(word >> 16)};
      const float2 both = __half22float2(raw);
      v[0] = both.x;
      v[1] = both.y;
#else
      v[0] = block::from_fp16(static_cast<std::uint16_t>(word));
      v[1] = block::from_fp16(static_cast<std::uint16_t>(word >> 16));
#endif
    }
  }
  // To nearest even, not for NaN.
  static ASSAY_QUANT_INLINE std::uint32_t narrow(const float* v) {
#ifdef __CUDA_ARCH__
    // The conversion instructions give half.h's bits for all but NaN.
    if constexpr (T == Type::bf16) {
      const __nv_bfloat162_raw raw = __floats2bfloat162_rn(v[0], v[1]);
      return raw.x | static_cast<std::uint32_t>(raw.y) << 16;
    } else {
      const __half2_raw raw = __floats2half2_rn(v[0], v[1]);
      return raw.x | static_cast<std::uint32_t>(raw.y) << 16;
    }
#else
    if constexpr (T == Type::bf16) {
      return block::to_bf16(v[0]) | static_cast<std::uint32_t>(block::to_bf16(v[1])) << 16;
    } else {
      return block::to_fp16(v[0]) | static_cast<std::uint32_t>(block::to_fp16(v[1])) << 16;
    }
#endif
  }
};

template <>
struct Words<Type::fp32> {
  static constexpr int each = 1;
  using Element = std::uint32_t;
  static constexpr std::uint32_t nan = 0x7fc00000u;

  static ASSAY_QUANT_INLINE void widen(std::uint32_t word, float* v) {
    *v = block::float_of(static_cast<std::int32_t>(word));
  }
  static ASSAY_QUANT_INLINE std::uint32_t narrow(const float* v) {
    return static_cast<std::uint32_t>(block::bits_of(*v));
  }
};

ASSAY_QUANT_INLINE bool aligned(const void* p, int bytes) {
  return (reinterpret_cast<std::uintptr_t>(p) & static_cast<std::uintptr_t>(bytes - 1)) == 0;
}

// One element. memcpy, on the host, since the matrix may be of floats.
template <class Element>
ASSAY_QUANT_INLINE Element element(const void* p, int i) {
#ifdef __CUDA_ARCH__
  return static_cast<const Element*>(p)[i];
#else
  Element e;
  std::memcpy(&e, static_cast<const Element*>(p) + i, sizeof e);
  return e;
#endif
}

template <class Element>
ASSAY_QUANT_INLINE void set_element(void* p, int i, Element e) {
#ifdef __CUDA_ARCH__
  static_cast<Element*>(p)[i] = e;
#else
  std::memcpy(static_cast<Element*>(p) + i, &e, sizeof e);
#endif
}

// N words at once from or to memory that is aligned to min(4 N, 16) bytes: 16-byte accesses, or one of 4 or 8.
template <int N>
ASSAY_QUANT_INLINE void load_aligned(const void* p, std::uint32_t* words) {
  static_assert(N == 1 || N == 2 || N % 4 == 0);
#ifdef __CUDA_ARCH__
  if constexpr (N == 1) {
    *words = *static_cast<const std::uint32_t*>(p);
  } else if constexpr (N == 2) {
    const uint2 two = *static_cast<const uint2*>(p);
    words[0] = two.x, words[1] = two.y;
  } else {
    ASSAY_UNROLL
    for (int i = 0; i < N / 4; ++i) {
      const uint4 four = static_cast<const uint4*>(p)[i];
      words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
    }
  }
#else
  std::memcpy(words, p, 4 * N);
#endif
}

template <int N>
ASSAY_QUANT_INLINE void store_aligned(void* p, const std::uint32_t* words) {
  static_assert(N == 1 || N == 2 || N % 4 == 0);
#ifdef __CUDA_ARCH__
  if constexpr (N == 1) {
    *static_cast<std::uint32_t*>(p) = *words;
  } else if constexpr (N == 2) {
    *static_cast<uint2*>(p) = uint2{words[0], words[1]};
  } else {
    ASSAY_UNROLL
    for (int i = 0; i < N / 4; ++i) {
      static_cast<uint4*>(p)[i] = uint4{words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]};
    }
  }
#else
  std::memcpy(p, words, 4 * N);
#endif
}

// n elements, at most N words of them, one by one; what is missing is loaded as zero.
template <Type T, int N>
ASSAY_QUANT_INLINE void load_elements(const void* p, int n, std::uint32_t* words) {
  constexpr int each = Words<T>::each;
  using Element = typename Words<T>::Element;
  ASSAY_UNROLL
  for (int i = 0; i < N; ++i) {
    words[i] = 0;
    ASSAY_UNROLL
    for (int j = 0; j < each; ++j) {
      if (i * each + j < n) words[i] |= static_cast<std::uint32_t>(element<Element>(p, i * each + j)) << (16 * j);
    }
  }
}

template <Type T, int N>
ASSAY_QUANT_INLINE void store_elements(void* p, int n, const std::uint32_t* words) {
  constexpr int each = Words<T>::each;
  using Element = typename Words<T>::Element;
  ASSAY_UNROLL
  for (int i = 0; i < N; ++i) {
    ASSAY_UNROLL
    for (int j = 0; j < each; ++j) {
      if (i * each + j < n) set_element<Element>(p, i * each + j, static_cast<Element>(words[i] >> (16 * j)));
    }
  }
}

// The same for memory of any alignment, by the words where that is possible.
template <Type T, int N>
ASSAY_QUANT_INLINE void load(const void* p, int n, std::uint32_t* words) {
  if (n == N * Words<T>::each && aligned(p, N < 4 ? 4 * N : 16)) load_aligned<N>(p, words);
  else load_elements<T, N>(p, n, words);
}

template <Type T, int N>
ASSAY_QUANT_INLINE void store(void* p, int n, const std::uint32_t* words) {
  if (n == N * Words<T>::each && aligned(p, N < 4 ? 4 * N : 16)) store_aligned<N>(p, words);
  else store_elements<T, N>(p, n, words);
}

}  // namespace assay::quant::cuda
