#include "quant/product/product.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "quant/fake_quantize.h"
#include "quant/product/multiplier.h"
#include "quant/product/operand.h"
#include "quant/product/probe.h"

namespace assay::quant {

using product::Multiplier;
using product::Operand;
using product::Outside;

namespace {

constexpr std::array<std::string_view, 4> unit_names{"fp32", "bf16", "cuda-bf16", "cuda-fp4"};

// Rows that pass through quantizer, product and factors together, so that they do so within the caches.
constexpr std::int64_t chunk = 256;
// Sums longer than this might leave fp32 with MXFP4; see operand.h.
constexpr std::int64_t longest_sum = 1 << 25;

// fp32 goes to our own kernel, which is the trainer's too: see multiplier.h.
bool by_panels(Unit unit) { return unit == Unit::fp32 && product::panels_available(); }

std::unique_ptr<Multiplier> pack(Unit unit, const void* b, std::int64_t k, std::int64_t n, bool transposed) {
  if (unit == Unit::cuda_bf16) return product::cuda_bf16(b, k, n, transposed);
  if (unit == Unit::cuda_fp4) return product::cuda_fp4(b, k, n);
  if (by_panels(unit)) return product::panels(static_cast<const float*>(b), k, n, transposed);
  return product::onednn(unit, b, k, n, transposed);
}

}  // namespace

struct Weight::State {
  std::int64_t out, in;
  Use use;
  Unit unit;                          // of the product; fp32 but for w4a4
  std::unique_ptr<Multiplier> packed;  // null where out or in is 0
  std::vector<double> factor;         // of each column of the result; a single one if they are equal
  std::vector<Outside> outside;
  std::int64_t outside_blocks = 0;

  std::int64_t k() const { return use == Use::backward ? out : in; }
  std::int64_t n() const { return use == Use::backward ? in : out; }
  void pack(const void* elements) {
    if (out > 0 && in > 0) packed = quant::pack(unit, elements, k(), n(), use != Use::backward);
  }
};

namespace {

// to[0..n) = fp32(to * factor + extra + bias), in fp64; `factor` has 1 element or n, extra and bias may be null.
#define ASSAY_INLINE inline __attribute__((always_inline))
ASSAY_INLINE void finish_row(std::int64_t n, double of_row, const std::vector<double>& factor, const double* extra,
                             const float* bias, float* to) {
  if (factor.size() == 1 && !extra) {
    const double f = of_row * factor[0];
    if (bias) {
      for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(to[i] * f + bias[i]);
    } else {
      for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(to[i] * f);
    }
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const double f = of_row * factor[factor.size() == 1 ? 0 : static_cast<std::size_t>(i)];
    to[i] = static_cast<float>(to[i] * f + (extra ? extra[i] : 0) + (bias ? bias[i] : 0));
  }
}
void finish_generic(std::int64_t n, double of_row, const std::vector<double>& factor, const double* extra,
                    const float* bias, float* to) {
  finish_row(n, of_row, factor, extra, bias, to);
}
#if defined(__x86_64__)
__attribute__((target("arch=x86-64-v3"))) void finish_avx2(std::int64_t n, double of_row,
                                                           const std::vector<double>& factor, const double* extra,
                                                           const float* bias, float* to) {
  finish_row(n, of_row, factor, extra, bias, to);
}
#endif

// Applies the factors, what the packed operands left out [rows, n], and bias [n] to y [rows, n]; all but y and factor
// may be null.
void finish(std::int64_t rows, std::int64_t n, const double* row_factor, const std::vector<double>& factor,
            const double* extra, const float* bias, float* y) {
#if defined(__x86_64__)
  const auto row = available(Path::avx2) ? finish_avx2 : finish_generic;
#else
  const auto row = finish_generic;
#endif
#pragma omp parallel for if (rows * n > 1 << 15)
  for (std::int64_t r = 0; r < rows; ++r) {
    row(n, row_factor ? row_factor[r] : 1, factor, extra ? extra + r * n : nullptr, bias, y + r * n);
  }
}

double element(const Operand& x, std::int64_t at) {
  const auto i = static_cast<std::size_t>(at);
  if (x.bf16.empty()) return x.fp32[i];
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bf16[i]) << 16);
}

// What the packed operands leave out, in fp64: x's and w's elements outside their rows' ranges.
class Remainder {
 public:
  explicit Remainder(const Weight::State& w) : w_(w) {}

  // Null where nothing is left out of either.
  const double* of(const Operand& x) {
    if (x.outside.empty() && w_.outside.empty()) return nullptr;
    const std::int64_t n = w_.out, k = w_.in;
    sum_.assign(static_cast<std::size_t>(x.rows * n), 0.0);
    for (std::int64_t m = 0; m < x.rows; ++m) {
      for (const Outside& o : w_.outside) {
        at(m, o.row) += element(x, m * k + o.col) * x.factor[static_cast<std::size_t>(m)] * o.value;
      }
    }
    if (!x.outside.empty()) unpack();
    for (const Outside& o : x.outside) {
      for (std::int64_t i = 0; i < n; ++i) at(o.row, i) += o.value * (element(plain_, i * k + o.col) * factor(i));
      for (const Outside& both : w_.outside) {
        if (both.col == o.col) at(o.row, both.row) += o.value * both.value;
      }
    }
    return sum_.data();
  }

 private:
  double& at(std::int64_t m, std::int64_t n) { return sum_[static_cast<std::size_t>(m * w_.out + n)]; }
  double factor(std::int64_t n) const { return w_.factor[w_.factor.size() == 1 ? 0 : static_cast<std::size_t>(n)]; }
  void unpack() {
    if (plain_.rows > 0) return;
    const auto n = static_cast<std::size_t>(w_.out * w_.in);
    plain_.rows = w_.out;
    if (w_.unit == Unit::fp32) plain_.fp32.resize(n);
    else plain_.bf16.resize(n);
    w_.packed->unpack(const_cast<void*>(plain_.data()));
  }

  const Weight::State& w_;
  Operand plain_;
  std::vector<double> sum_;
};

void multiply(const Weight::State& w, const void* a, std::int64_t m, float* y) {
  if (w.packed) w.packed->run(a, m, y);
  else std::fill_n(y, m * w.n(), 0.0f);
}

}  // namespace

std::string missing(Unit unit) {
  switch (unit) {
    case Unit::fp32: return "";
    case Unit::bf16: return product::onednn_has_bf16() ? "" : "this processor has neither bf16 dot products nor AMX";
    case Unit::cuda_bf16: return product::cuda_missing(false);
    case Unit::cuda_fp4: return product::cuda_missing(true);
  }
  return "no such unit";
}

bool available(Unit unit) { return missing(unit).empty(); }

double accumulation_error(Unit unit) {
  assert(available(unit));
  const auto measure = [](Unit by) {
    return product::known_sums([by](const float* a, const float* b, std::int64_t m, std::int64_t k, std::int64_t n, float* y) {
      const auto narrow = [](const float* from, std::int64_t count) {
        std::vector<std::uint16_t> to(static_cast<std::size_t>(count));
        for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(from[i]) >> 16);
        return to;
      };
      if (by == Unit::fp32) pack(by, b, k, n, false)->run(a, m, y);
      else pack(by, narrow(b, k * n).data(), k, n, false)->run(narrow(a, m * k).data(), m, y);
    });
  };
  if (unit == Unit::bf16) {
    static const double error = measure(Unit::bf16);
    return error;
  }
  if (unit == Unit::cuda_bf16) {
    static const double error = measure(Unit::cuda_bf16);
    return error;
  }
  if (unit == Unit::cuda_fp4) {
    static const double error = product::known_fp4_sum([](const void* a, const void* b, std::int64_t m, std::int64_t k,
                                                          std::int64_t n, float* y) { product::cuda_fp4(b, k, n)->run(a, m, y); });
    return error;
  }
  static const double error = measure(Unit::fp32);
  return error;
}

Unit best_unit() { return available(Unit::bf16) && accumulation_error(Unit::bf16) == 0 ? Unit::bf16 : Unit::fp32; }

std::optional<Unit> parse_unit(std::string_view name) {
  for (std::size_t i = 0; i < unit_names.size(); ++i) {
    if (unit_names[i] == name) return static_cast<Unit>(i);
  }
  return std::nullopt;
}

std::string_view name(Unit unit) { return unit_names[static_cast<std::size_t>(unit)]; }

std::string describe(Unit unit) {
  const bool gpu = unit == Unit::cuda_bf16 || unit == Unit::cuda_fp4;
  const std::string text = std::string(name(unit)) + " by " +
                           (gpu               ? product::cuda_version()
                            : by_panels(unit) ? product::panels_name()
                                              : product::onednn_version());
  if (!available(unit)) return text + ": not on this machine (" + missing(unit) + ")";
  const double error = accumulation_error(unit);
  return text + (error == 0 ? ", sums in fp32" : ", sums NOT in fp32: known ones off by " + std::to_string(error));
}

Weight::Weight(const float* w, std::int64_t out, std::int64_t in, Use use) {
  assert(out >= 0 && in >= 0 && use != Use::w4a4);
  auto state = std::make_shared<State>(State{out, in, use, Unit::fp32, nullptr, {1.0}, {}, 0});
  state->pack(w);
  state_ = std::move(state);
}

Weight::Weight(const Spec& spec, int axis, const float* w, std::int64_t out, std::int64_t in, Use use, Unit unit) {
  assert(out >= 0 && in >= 0 && in <= longest_sum);
  require(spec, axis);
  if (const std::string why = missing(unit); !why.empty()) throw std::runtime_error(why);
  assert(!(use == Use::backward && spec.scope == Scope::row));
  auto state = std::make_shared<State>(State{out, in, use, use == Use::w4a4 ? unit : Unit::fp32, nullptr, {}, {}, 0});
  Operand made;
  product::quantize(spec, needs_tensor_max(spec) ? product::tensor_max(w, out * in) : 0, state->unit,
                    use == Use::w4a4, axis, w, out, in, made);
  state->pack(made.data());
  state->factor = std::move(made.factor);
  const bool equal = std::adjacent_find(state->factor.begin(), state->factor.end(), std::not_equal_to<>()) == state->factor.end();
  if (equal) state->factor.resize(1, 1.0);
  state->outside = std::move(made.outside);
  state->outside_blocks = made.outside_blocks;
  state_ = std::move(state);
}

std::int64_t Weight::out() const { return state_->out; }
std::int64_t Weight::in() const { return state_->in; }
Use Weight::use() const { return state_->use; }
Unit Weight::unit() const { return state_->unit; }
std::string Weight::implementation() const { return state_->packed ? state_->packed->implementation() : "none"; }

void linear(const Weight& w, const float* x, std::int64_t m, float* y, const float* bias) {
  const Weight::State& s = *w.state_;
  assert(s.use != Use::w4a4 && m >= 0);
  assert(!(bias && s.use == Use::backward));
  const std::int64_t n = s.n();
  if (n == 0) return;
  const bool plain = !bias && s.factor.size() == 1 && s.factor[0] == 1;
  for (std::int64_t first = 0; first < m; first += chunk) {
    const std::int64_t rows = std::min(chunk, m - first);
    float* to = y + first * n;
    multiply(s, x + first * s.k(), rows, to);
    if (!plain) finish(rows, n, nullptr, s.factor, nullptr, bias, to);
  }
}

Counts linear_w4a4(const Spec& spec, const Weight& w, const float* x, std::int64_t m, float* y, const float* bias) {
  const Weight::State& s = *w.state_;
  assert(s.use == Use::w4a4 && m >= 0);
  require(spec, 1);
  Counts counts{s.outside_blocks, 0};
  if (s.out == 0) return counts;
  const float a = needs_tensor_max(spec) ? product::tensor_max(x, m * s.in) : 0;
  Operand q;
  Remainder remainder(s);
  for (std::int64_t first = 0; first < m; first += chunk) {
    const std::int64_t rows = std::min(chunk, m - first);
    product::quantize(spec, a, s.unit, true, 1, x + first * s.in, rows, s.in, q, first);
    counts.activation_fp64_blocks += q.outside_blocks;
    float* to = y + first * s.out;
    multiply(s, q.data(), rows, to);
    finish(rows, s.out, q.factor.data(), s.factor, remainder.of(q), bias, to);
  }
  return counts;
}

}  // namespace assay::quant
