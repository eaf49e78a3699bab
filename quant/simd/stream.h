// Stores past the caches: a line that nobody reads soon need not be fetched before it is overwritten, nor push out others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "quant/block.h"

namespace assay::quant::simd {

// After the last stream(): other threads see the results from here on.
inline void end_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

#if defined(__SSE2__)
ASSAY_QUANT_INLINE void store_past_16(const char* from, char* to) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

#if defined(ASSAY_AVX2)  // what the file that includes this is compiled for
ASSAY_QUANT_INLINE void store_past_32(const char* from, char* to) {
  using Words = long long __attribute__((vector_size(32)));
  Words words;
  std::memcpy(&words, from, sizeof words);
  // Not the intrinsic: the functions that this one is inlined into through others are AVX's, those others are not.
#if defined(__clang__)
  __builtin_nontemporal_store(words, reinterpret_cast<Words*>(to));
#else
  __asm__("vmovntdq %1, %0" : "=m"(*reinterpret_cast<char(*)[32]>(to)) : "x"(words));
#endif
}
#endif
#endif

// Whether all of `to` goes past the caches when its length is a multiple of 16 bytes.
ASSAY_QUANT_INLINE bool streamable(const void* to) { return reinterpret_cast<std::uintptr_t>(to) % 16 == 0; }

ASSAY_QUANT_INLINE void stream(const void* from, void* to, std::size_t bytes) {
#if defined(__SSE2__)
  const char* x = static_cast<const char*>(from);
  char* y = static_cast<char*>(to);
  std::size_t i = (16 - reinterpret_cast<std::uintptr_t>(y) % 16) % 16;
  i = i < bytes ? i : bytes;
  std::memcpy(y, x, i);
#if defined(ASSAY_AVX2)
  if (reinterpret_cast<std::uintptr_t>(y + i) % 32 == 0) {
    for (; i + 32 <= bytes; i += 32) store_past_32(x + i, y + i);
  }
#endif
  for (; i + 16 <= bytes; i += 16) store_past_16(x + i, y + i);
  std::memcpy(y + i, x + i, bytes - i);
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace assay::quant::simd
