// The one source of all builds (avx2.cpp, avx512.cpp, portable.cpp); the includer defines ASSAY_KERNEL_SPACE, and as
// ASSAY_KERNEL_GEMM the namespace of the products that go with it (quant/gemm).
// Nothing from the C++ library that could be emitted with AVX2 code and then shared with other files.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "quant/gemm/vectors.h"
#include "trainer/model/kernels/kernels.h"

namespace assay::train::kernels::ASSAY_KERNEL_SPACE {
namespace {

using namespace quant::gemm;

// e^x within 2 ulp; 0 below -87.3, and e^88.02 above that.
// Range reduction x = n ln 2 + r, |r| <= ln 2 / 2, and the degree-6 polynomial of Cephes' expf.
// NaN stays NaN.
ASSAY_INLINE v8 exp(v8 x) {
  const v8 low = splat(-87.33654f), high = splat(88.02f);
  const v8 magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const i8 tiny = x < low;
  v8 y = x > high ? high : x;
  y = y < low ? low : y;
  const v8 n = (y * splat(1.44269504f) + magic) - magic;
  v8 r = y - n * splat(0.693359375f);
  r = r + n * splat(2.12194440e-4f);
  v8 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + splat(1.f));
  i8 bits = __builtin_convertvector(n, i8);
  bits = (bits + 127) << 23;
  const v8 scaled = p * (v8)bits;
  const v8 zeroed = tiny ? splat(0.f) : scaled;
  return x != x ? x : zeroed;
}

// ---- rows ----

// f(vector of 8, index, count) over n elements; the last may hold fewer than 8.
template <class F>
ASSAY_INLINE void each8(i64 n, F f) {
  i64 i = 0;
  for (; i + 8 <= n; i += 8) f(i, i64{8});
  if (i < n) f(i, n - i);
}
ASSAY_INLINE v8 take(const float* p, i64 n, float fill = 0.f) { return n == 8 ? load(p) : load_part(p, n, fill); }
ASSAY_INLINE void put(float* p, v8 x, i64 n) {
  if (n == 8)
    store(p, x);
  else
    store_part(p, x, n);
}

void rms_norm(i64 m, i64 d, const float* x, const float* w, float eps, float* y, float* inv) {
  for (i64 i = 0; i < m; ++i, x += d, y += d) {
    v8 squares = splat(0.f);
    each8(d, [&](i64 j, i64 n) {
      const v8 v = take(x + j, n);
      squares = fma(v, v, squares);
    });
    const float r = 1.f / std::sqrt(sum(squares) / static_cast<float>(d) + eps);
    if (inv) inv[i] = r;
    each8(d, [&](i64 j, i64 n) { put(y + j, take(x + j, n) * splat(r) * take(w + j, n), n); });
  }
}

void rms_norm_backward(i64 m, i64 d, const float* x, const float* w, const float* inv, const float* dy, float* dx,
                       float* dw) {
  for (i64 i = 0; i < m; ++i, x += d, dy += d, dx += d) {
    v8 dots = splat(0.f);
    each8(d, [&](i64 j, i64 n) { dots = fma(take(dy + j, n) * take(w + j, n), take(x + j, n), dots); });
    const v8 r = splat(inv[i]);
    const v8 pull = splat(sum(dots) * inv[i] * inv[i] / static_cast<float>(d));
    each8(d, [&](i64 j, i64 n) {
      put(dx + j, r * (take(dy + j, n) * take(w + j, n) - take(x + j, n) * pull), n);
    });
    if (dw) each8(d, [&](i64 j, i64 n) { put(dw + j, take(dw + j, n) + take(dy + j, n) * take(x + j, n) * r, n); });
  }
}

void swiglu(i64 count, const float* gate, const float* up, float* y) {
  each8(count, [&](i64 i, i64 n) {
    const v8 g = take(gate + i, n);
    put(y + i, g / (splat(1.f) + exp(-g)) * take(up + i, n), n);
  });
}

void swiglu_backward(i64 count, const float* gate, const float* up, const float* dy, float* dgate, float* dup) {
  each8(count, [&](i64 i, i64 n) {
    const v8 g = take(gate + i, n), one = splat(1.f), d = take(dy + i, n);
    const v8 s = one / (one + exp(-g));
    put(dgate + i, d * take(up + i, n) * (s * (one + g * (one - s))), n);
    put(dup + i, d * (g * s), n);
  });
}

void rope(i64 m, i64 heads, i64 e, const float* x, const float* cosine, const float* sine,
          const std::int32_t* position, float sign, float* y) {
  const i64 half = e / 2;
  const v8 turn = splat(sign);
  for (i64 i = 0; i < m; ++i) {
    const float* c = cosine + position[i] * half;
    const float* s = sine + position[i] * half;
    for (i64 h = 0; h < heads; ++h, x += e, y += e) {
      each8(half, [&](i64 j, i64 n) {
        const v8 a = take(x + j, n), b = take(x + half + j, n);
        const v8 cj = take(c + j, n), sj = take(s + j, n) * turn;
        put(y + j, a * cj - b * sj, n);
        put(y + half + j, b * cj + a * sj, n);
      });
    }
  }
}

// ---- softmax ----

// The columns that row i sees end below this; stride and first_end are multiples of 8. What lies behind is 0 in the
// result and adds nothing to a sum, so leaving it out changes no bit.
ASSAY_INLINE i64 reach(i64 i, i64 first_end, i64 all_own) {
  return round_up(first_end + (all_own >= 0 ? all_own : i + 1), 8);
}
ASSAY_INLINE void blank(float* s, i64 first, i64 first_end, i64 own, i64 end, float with) {
  for (i64 j = first; j < first_end; ++j) s[j] = with;
  for (i64 j = first_end + own; j < end; ++j) s[j] = with;
}

void softmax(i64 m, i64 stride, float* s, float scale, i64 first, i64 first_end, i64 all_own, float* lse,
             i64 lse_stride) {
  const v8 times = splat(scale);
  for (i64 i = 0; i < m; ++i, s += stride) {
    const i64 end = reach(i, first_end, all_own);
    blank(s, first, first_end, all_own >= 0 ? all_own : i + 1, end, -INFINITY);
    v8 top = splat(-INFINITY);
    for (i64 j = 0; j < end; j += 8) {
      const v8 z = load(s + j) * times;
      store(s + j, z);
      top = max(z, top);
    }
    const float most = largest(top);
    v8 total = splat(0.f);
    for (i64 j = 0; j < end; j += 8) {
      const v8 p = exp(load(s + j) - splat(most));
      store(s + j, p);
      total = total + p;
    }
    const float whole = sum(total);
    const v8 share = splat(1.f / whole);
    for (i64 j = 0; j < end; j += 8) store(s + j, load(s + j) * share);
    for (i64 j = end; j < stride; j += 8) store(s + j, splat(0.f));
    if (lse) lse[i * lse_stride] = most + std::log(whole);
  }
}

void softmax_again(i64 m, i64 stride, float* s, float scale, i64 first, i64 first_end, const float* lse,
                   i64 lse_stride) {
  for (i64 i = 0; i < m; ++i, s += stride) {
    const i64 end = reach(i, first_end, -1);
    const v8 minus = splat(lse[i * lse_stride]);
    for (i64 j = 0; j < end; j += 8) store(s + j, exp(load(s + j) * splat(scale) - minus));
    blank(s, first, first_end, i + 1, end, 0.f);
    for (i64 j = end; j < stride; j += 8) store(s + j, splat(0.f));
  }
}

void softmax_backward(i64 m, i64 stride, const float* p, float* dp, float scale, i64 first_end) {
  for (i64 i = 0; i < m; ++i, p += stride, dp += stride) {
    const i64 end = reach(i, first_end, -1);
    v8 dots = splat(0.f);
    for (i64 j = 0; j < end; j += 8) dots = fma(load(p + j), load(dp + j), dots);
    const v8 delta = splat(sum(dots));
    for (i64 j = 0; j < end; j += 8) store(dp + j, splat(scale) * load(p + j) * (load(dp + j) - delta));
    for (i64 j = end; j < stride; j += 8) store(dp + j, splat(0.f));
  }
}

void distribution(i64 v, float* z, float inverse_temperature, float* most, float* log_sum, float* entropy) {
  v8 top = splat(-INFINITY);
  const v8 warm = splat(inverse_temperature);
  each8(v, [&](i64 i, i64 n) {
    const v8 x = take(z + i, n) * warm;
    put(z + i, x, n);
    top = max(n == 8 ? x : load_part(z + i, n, -INFINITY), top);
  });
  const float high = largest(top);
  v8 total = splat(0.f), weighted = splat(0.f);
  each8(v, [&](i64 i, i64 n) {
    const v8 x = take(z + i, n, -INFINITY) - splat(high);
    const v8 p = exp(x);
    put(z + i, p, n);
    total = total + p;
    if (entropy) weighted = fma(p, p > splat(0.f) ? x : splat(0.f), weighted);
  });
  const float whole = sum(total);
  const v8 share = splat(1.f / whole);
  each8(v, [&](i64 i, i64 n) { put(z + i, take(z + i, n) * share, n); });
  *most = high;
  *log_sum = std::log(whole);
  if (entropy) *entropy = *log_sum - sum(weighted) / whole;
}

}  // namespace

const Table table = {
    ASSAY_KERNEL_NAME, ASSAY_KERNEL_GEMM::packed, ASSAY_KERNEL_GEMM::strided, ASSAY_KERNEL_GEMM::pairs, ASSAY_KERNEL_GEMM::code_row,
    rms_norm, rms_norm_backward, swiglu, swiglu_backward, rope, softmax, softmax_again, softmax_backward, distribution,
};

}  // namespace assay::train::kernels::ASSAY_KERNEL_SPACE
