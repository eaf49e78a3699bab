// Products with packed weights: of two quantized matrices, exact up to the order of the sum, and of fp32 ones. One way to
// multiply for both; no LibTorch here.
//
// Why exact: an E2M1 code has 2 significant bits and an E4M3 block scale 4, so code * scale fits bf16 (8 bits), and the
// product of two such numbers fits fp32. With the fp32 tensor factors g taken out and applied to the result, bf16 units
// that add in fp32 compute a W4A4 product with no error but that of an fp32 sum:
//   y[m, n] = fp32( fp64(acc[m, n]) * (gx[m] * gw[n]) + bias[n] ),   acc = sum over k of (qx * sx) * (qw * sw) in fp32
// with the right-hand side in fp64 but for acc: gx * gw is exact there. Against the same expression without rounding,
//   |y - exact| <= gamma(K + 2) * (S + |bias|) + 2^-149,  S = |gx gw| sum |qx sx qw sw|,  gamma(j) = j u / (1 - j u),
// u = 2^-24: the bound of an fp32 sum in any order. fake_quantize() rounds q * s * g up to four times on the way, so
// against its output as operands the bound is gamma(K + 10). What is usually seen is near u * S.
// MXFP4's scales are powers of two from 2^-127 to 2^127, more than fp32 sums and bf16 units (which take subnormals for
// zero) bear: each row of either operand has a power of two taken out, which joins g. A block whose scale is then more
// than 2^110 below its row's largest is multiplied in fp64 instead, and counted.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "quant/formats.h"

namespace assay::quant {

// What multiplies in linear_w4a4(). fp32: the same exact numbers, as fp32. cuda_bf16: a GPU's bf16 units, by cuBLASLt;
// cuda_fp4: its FP4 units (compute capability 10.0 or later), codes and block scales as they are, for NVFP4 with blocks along K
// in both operands. The matrices are the host's all the same.
enum class Unit : std::uint8_t { fp32, bf16, cuda_bf16, cuda_fp4 };
bool available(Unit unit);      // bf16: the processor has bf16 dot products or AMX
std::string missing(Unit unit); // why it is not, in a sentence; empty where it is
// The largest relative error over products whose sums are known and fit fp32: 0 says that the unit adds in fp32.
double accumulation_error(Unit unit);
Unit best_unit();               // of the processor: bf16 where available and adding in fp32; a GPU is asked for by name
std::optional<Unit> parse_unit(std::string_view name);
std::string_view name(Unit unit);
std::string describe(Unit unit);  // for a run's record: library, version, instruction set, what it adds in

// What a packed weight w [out, in] is for. Each takes 4 bytes an element, w4a4 on bf16 units 2.
enum class Use : std::uint8_t {
  forward,   // linear(): y[m, out] = x[m, in] w^T, x fp32
  backward,  // linear(): dx[m, in] = dy[m, out] w, dy fp32
  w4a4,      // linear_w4a4(): y[m, out] = q(x) q(w)^T
};

// A weight packed once. Copies share the packed data, which never changes: any number of threads may multiply with it.
class Weight {
 public:
  // As it is; `use` is forward or backward.
  Weight(const float* w, std::int64_t out, std::int64_t in, Use use);
  // Quantized first, blocks along `axis` (1: along in, 0: along out); any spec without an objection(), but for backward
  // no scale per row. Throws std::invalid_argument for a spec that has one, or that `unit` does not take, and
  // std::runtime_error for a unit that is missing().
  Weight(const Spec& spec, int axis, const float* w, std::int64_t out, std::int64_t in, Use use,
         Unit unit = best_unit());

  std::int64_t out() const;
  std::int64_t in() const;
  Use use() const;
  Unit unit() const;
  std::string implementation() const;  // the library's name of what it multiplies with
  struct State;

 private:
  friend void linear(const Weight& w, const float* x, std::int64_t m, float* y, const float* bias);
  friend struct Counts linear_w4a4(const Spec& spec, const Weight& w, const float* x, std::int64_t m, float* y,
                                   const float* bias);
  std::shared_ptr<const State> state_;
};

// y = x w^T (+ bias), or with Use::backward dx = dy w; row-major; bias [out] may be null, and is with backward. Threads:
// OpenMP's current number.
void linear(const Weight& w, const float* x, std::int64_t m, float* y, const float* bias = nullptr);

struct Counts {
  // Blocks done in fp64, of the weight and of this call's activations; one that crosses rows counts in each of them.
  std::int64_t weight_fp64_blocks = 0, activation_fp64_blocks = 0;
};

// The same with x [m, in] quantized to `spec` first, blocks along rows, each row padded by itself.
// NaN blocks (policy `propagate`) of x make their rows of y NaN, those of w their columns.
Counts linear_w4a4(const Spec& spec, const Weight& w, const float* x, std::int64_t m, float* y,
                   const float* bias = nullptr);

}  // namespace assay::quant
