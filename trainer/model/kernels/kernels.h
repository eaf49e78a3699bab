// The arithmetic of the decoder on plain fp32 arrays. No LibTorch here.
//
// Every function computes a row (a token) from that row alone, in one fixed order of operations that depends neither
// on how many rows there are nor on threads: sums over K as quant/gemm has them; sums over a row run in 8 lanes
// (element i in lane i mod 8) that are then added in the order ((0+4)+(2+6))+((1+5)+(3+7)). So a token's value is the
// same bits whether it is computed while decoding, with 5 rows, or in training, with 5000. That is what makes the sampler's
// log-probs those of the trainer.
//
// Three builds of the same source: AVX-512, AVX2 + FMA, and portable; active() takes the first that the processor has.
// The first two give the same bits; portable rounds each product before it is added.
#pragma once

#include <cstdint>

#include "quant/gemm/gemm.h"
#include "quant/gemm/pairs.h"

namespace assay::train::kernels {

using i64 = std::int64_t;

using quant::gemm::chunk;
using quant::gemm::pack;
using quant::gemm::Packed;
using quant::gemm::PackedPairs;
using quant::gemm::panel;
using quant::gemm::round_up;
using quant::gemm::unpack;

struct Table {
  const char* name;

  // Products, as quant/gemm/gemm.h says.
  quant::gemm::PackedProduct* gemm_packed;
  quant::gemm::StridedProduct* gemm;
  // As quant/gemm/pairs.h says.
  quant::gemm::PairsProduct* pairs;
  quant::gemm::CodeRow* code_row;

  // y = x * inv * w, inv[m] = 1 / sqrt(mean(x^2) + eps).
  void (*rms_norm)(i64 m, i64 d, const float* x, const float* w, float eps, float* y, float* inv);
  // dx of the above. dw may be null; else it is added to, rows in ascending order.
  void (*rms_norm_backward)(i64 m, i64 d, const float* x, const float* w, const float* inv, const float* dy, float* dx,
                            float* dw);
  // y = silu(gate) * up.
  void (*swiglu)(i64 n, const float* gate, const float* up, float* y);
  void (*swiglu_backward)(i64 n, const float* gate, const float* up, const float* dy, float* dgate, float* dup);

  // Rotates the halves of every head: x [M, heads * e], cosine and sine [M', e / 2] read at row position[m].
  // sign -1 turns back (the backward).
  void (*rope)(i64 m, i64 heads, i64 e, const float* x, const float* cosine, const float* sine,
               const std::int32_t* position, float sign, float* y);

  // In place over s [M, stride]: p = softmax(scale * s) over the columns that are on, 0 elsewhere; lse[m * lse_stride]
  // = log sum exp. Columns on: [0, first) and [first_end, first_end + 1 + row) (row m sees one more than m - 1), or,
  // with all_own >= 0, [first_end, first_end + all_own) for every row. lse may be null.
  void (*softmax)(i64 m, i64 stride, float* s, float scale, i64 first, i64 first_end, i64 all_own, float* lse,
                  i64 lse_stride);
  // The same from a known lse: p = exp(scale * s - lse).
  void (*softmax_again)(i64 m, i64 stride, float* s, float scale, i64 first, i64 first_end, const float* lse,
                        i64 lse_stride);
  // dp -> ds in place: ds = scale * p * (dp - delta), delta[m] = sum p * dp; columns on as above.
  void (*softmax_backward)(i64 m, i64 stride, const float* p, float* dp, float scale, i64 first_end);

  // Of one row of logits z [V], in place: z becomes softmax(z / temperature). Returns the largest and the log of the
  // sum: the log-prob of token t is (z_t / temperature - *largest) - *log_sum, z_t read before the call.
  void (*distribution)(i64 v, float* z, float inverse_temperature, float* largest, float* log_sum, float* entropy);
};

const Table& avx512();    // with bf16 units where there are any; undefined behaviour on a processor without AVX-512 F, VL, DQ and BW
const Table& avx2();      // on one without AVX2 and FMA
const Table& portable();
const Table& active();    // the best that this processor has; ASSAY_KERNELS=avx512|avx2|portable asks for one, and throws where it is not

}  // namespace assay::train::kernels
