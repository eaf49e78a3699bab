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

ASSAY_QUANT_INLINE void stream(const void* from, void* to, std::size_t bytes) {
#if defined(__SSE2__)
  const char* x = static_cast<const char*>(from);
  char* y = static_cast<char*>(to);
  std::size_t i = (16 - reinterpret_cast<std::uintptr_t>(y) % 16) % 16;
  i = i < bytes ? i : bytes;
  std::memcpy(y, x, i);
  for (; i + 16 <= bytes; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(y + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
  }
  std::memcpy(y + i, x + i, bytes - i);
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace assay::quant::simd
