#include "quant/product/operand.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <tuple>

#include "quant/block.h"
#include "quant/fake_quantize.h"
#include "quant/product/fp4_layout.h"

namespace assay::quant::product {
namespace {

using namespace block;

constexpr bool holds_bf16(Unit unit) { return unit == Unit::bf16 || unit == Unit::cuda_bf16; }

// A band is the rows that share their scales: one with axis 1, a block's height with axis 0 and with tiles. It is divided
// into cells, a block each.
struct Job {
  const Spec& spec;
  float a;
  Unit unit;
  bool centred;
  int axis;
  const float* x;
  std::int64_t first_row;
  Operand& to;

  int height() const { return axis == 1 && !spec.tiles ? 1 : spec.block(); }
  int width() const { return axis == 1 || spec.tiles ? spec.block() : 1; }
  std::int64_t cells() const { return (to.cols + width() - 1) / width(); }
  std::int64_t bands() const { return (to.rows + height() - 1) / height(); }
};

// What one thread works with and brings back.
struct Found {
  std::vector<std::int32_t> maxima;            // of a band's cells: their blocks' absolute maxima, as bits
  std::vector<float> encode, stored, centred;  // and their scales
  std::vector<Outside> outside;
  std::int64_t outside_blocks = 0;
};

ASSAY_QUANT_INLINE void find_maxima(const Job& job, const float* x, int height, std::vector<std::int32_t>& maxima) {
  const std::int64_t cols = job.to.cols;
  const int width = job.width();
  if (width == 1) {
    std::fill(maxima.begin(), maxima.end(), 0);
    for (int r = 0; r < height; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        maxima[static_cast<std::size_t>(c)] = larger(maxima[static_cast<std::size_t>(c)], abs_bits(x[r * cols + c]));
      }
    }
    return;
  }
  if (height > 1) {
    std::fill(maxima.begin(), maxima.end(), 0);
    for (int r = 0; r < height; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        std::int32_t& m = maxima[static_cast<std::size_t>(c / width)];
        m = larger(m, abs_bits(x[r * cols + c]));
      }
    }
    return;
  }
  const std::int64_t whole = cols / width;
  const auto of = [&](std::int64_t cell, std::int64_t n) {
    std::int32_t m = 0;
#pragma GCC unroll 1  // or the steps are unrolled before the vectoriser sees them
    for (std::int64_t i = 0; i < n; ++i) m = larger(m, abs_bits(x[cell * width + i]));
    maxima[static_cast<std::size_t>(cell)] = m;
  };
  if (width == 16) {
    for (std::int64_t b = 0; b < whole; ++b) of(b, 16);
  } else {
    for (std::int64_t b = 0; b < whole; ++b) of(b, 32);
  }
  if (whole * width < cols) of(whole, cols - whole * width);
}

// The maximum of a cell that holds NaN or Inf, over its finite elements.
std::int32_t finite_maximum(const Job& job, const float* x, int height, std::int64_t cell) {
  const std::int64_t cols = job.to.cols, first = cell * job.width(), last = std::min(cols, first + job.width());
  std::int32_t m = 0;
  for (int r = 0; r < height; ++r) {
    for (std::int64_t c = first; c < last; ++c) {
      const std::int32_t bits = abs_bits(x[r * cols + c]);
      m = larger(m, bits < infinity_bits ? bits : 0);
    }
  }
  return m;
}

// How elements become codes; `index` is an element's place in the whole matrix. NaN takes code +6 under hw_saturate, as Inf
// does by itself. Under propagate, where its scale is NaN, it does not matter.
template <bool Divides>
struct ToNearest {
  ASSAY_QUANT_INLINE float operator()(float x, float encode, std::int64_t) const {
    return round_e2m1(scaled<Divides>(x != x ? std::numeric_limits<float>::infinity() : x, encode));
  }
};
template <bool Divides>
struct Stochastic {
  std::uint64_t key;
  ASSAY_QUANT_INLINE float operator()(float x, float encode, std::int64_t index) const {
    const float y = scaled<Divides>(x != x ? std::numeric_limits<float>::infinity() : x, encode);
    return round_e2m1_stochastic(y, random_bits(key, static_cast<std::uint64_t>(index)));
  }
};

ASSAY_QUANT_INLINE void put(float* to, std::int64_t at, float v) { to[at] = v; }
ASSAY_QUANT_INLINE void put(std::uint16_t* to, std::int64_t at, float v) {  // exact: the bits cut off are 0
  to[at] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(bits_of(v)) >> 16);
}

template <int Width, class Code, class Element>
ASSAY_QUANT_INLINE void emit(const Code& code, const float* x, std::int64_t index, std::int64_t cols,
                             const float* encode, const float* scale, Element* to) {
  if constexpr (Width == 1) {
    for (std::int64_t c = 0; c < cols; ++c) put(to, c, code(x[c], encode[c], index + c) * scale[c]);
  } else {
    const std::int64_t whole = cols / Width;
    for (std::int64_t b = 0; b < whole; ++b) {
      const float to_code = encode[b], from_code = scale[b];
      const std::int64_t at = b * Width;
#pragma GCC unroll 1
      for (int i = 0; i < Width; ++i) put(to, at + i, code(x[at + i], to_code, index + at + i) * from_code);
    }
    for (std::int64_t c = whole * Width; c < cols; ++c) {
      put(to, c, code(x[c], encode[whole], index + c) * scale[whole]);
    }
  }
}

template <class Code, class Element>
ASSAY_QUANT_INLINE void emit_row(const Job& job, const Code& code, const float* x, std::int64_t index,
                                 const float* encode, const float* scale, Element* to) {
  switch (job.width()) {
    case 1: return emit<1>(code, x, index, job.to.cols, encode, scale, to);
    case 16: return emit<16>(code, x, index, job.to.cols, encode, scale, to);
    default: return emit<32>(code, x, index, job.to.cols, encode, scale, to);
  }
}

// The exponent of a power of two down to 2^-127, which is subnormal.
int exponent_of(float power) { return (bits_of(power) >> 23) - 127; }

// Takes a power of two out of row r: fills found.centred, notes what then lies outside, returns the power's exponent.
template <class Code>
int centre(const Job& job, const Code& code, std::int64_t r, const float* x, Found& found) {
  int most = std::numeric_limits<int>::min();
  for (std::size_t i = 0; i < found.stored.size(); ++i) {
    if (found.maxima[i] > 0 && found.stored[i] == found.stored[i]) most = std::max(most, exponent_of(found.stored[i]));
  }
  if (most == std::numeric_limits<int>::min()) most = top;  // nothing but zeros and NaN
  for (std::size_t i = 0; i < found.stored.size(); ++i) {
    const float stored = found.stored[i];
    const int exponent = exponent_of(stored) - most + top;
    if (stored != stored) {
      found.centred[i] = stored;
    } else if (exponent >= bottom) {
      found.centred[i] = std::ldexp(1.0f, exponent);
    } else {
      found.centred[i] = 0;
      const std::int64_t first = static_cast<std::int64_t>(i) * job.width();
      const std::int64_t last = std::min(job.to.cols, first + job.width());
      const std::size_t before = found.outside.size();
      for (std::int64_t c = first; c < last; ++c) {
        const double value =
            static_cast<double>(code(x[c], found.encode[i], (job.first_row + r) * job.to.cols + c)) * stored;
        if (value != 0) found.outside.push_back({r, c, value});
      }
      found.outside_blocks += found.outside.size() > before;
    }
  }
  return most - top;
}

// A cell's scale, of the two that Four-over-Six has. Non-finite elements add no error.
template <class Rule>
ASSAY_QUANT_INLINE Scale chosen(const Job& job, const Rule& rule, float am, const float* x, int height, std::int64_t cell) {
  const std::int64_t first = cell * job.width();
  const int width = static_cast<int>(std::min<std::int64_t>(job.width(), job.to.cols - first));
  float block[16 * 16];
  for (int r = 0; r < height; ++r) {
    for (int c = 0; c < width; ++c) {
      const float v = x[r * job.to.cols + first + c];
      block[r * width + c] = abs_bits(v) < infinity_bits ? v : 0;
    }
  }
  if (height == 1 || width == 1) return choose(rule, am, block, height * width, 1);
  const Scale one = rule(am), two = rule.second(am);
  float sums[16] = {}, second_sums[16] = {};
  for (int r = 0; r < height; ++r) {
    sums[r] = error_sum(rule, one, block + r * width, width, 1);
    second_sums[r] = error_sum(rule, two, block + r * width, width, 1);
  }
  return tile_sum(second_sums) < tile_sum(sums) ? two : one;
}

// What the rule of a mode makes of a band: found.encode and found.stored, and of the rule itself what the rest needs. The
// rest knows nothing of modes, so that it is compiled once and not for each of them.
struct OfRule {
  bool divides;
  double tensor_factor;
};
ASSAY_QUANT_INLINE OfRule find_scales(const Job& job, float a, const float* x, int height, Found& found) {
  return with_rule(job.spec.mode, [&](auto tag) __attribute__((always_inline)) {
    using Rule = typename decltype(tag)::type;
    const Rule rule(a);
    for (std::size_t i = 0; i < found.maxima.size(); ++i) {
      Scale scale;
      if constexpr (Rule::candidates == 1) scale = rule(float_of(found.maxima[i]));
      else scale = chosen(job, rule, float_of(found.maxima[i]), x, height, static_cast<std::int64_t>(i));
      found.encode[i] = scale.encode;
      found.stored[i] = scale.stored;
    }
    return OfRule{Rule::divides, rule.tensor_factor()};
  });
}

// f(code) with the way elements become codes.
template <class F>
ASSAY_QUANT_INLINE void with_code(const Spec& spec, bool divides, F&& f) {
  if (spec.rounding == Rounding::stochastic) {
    const std::uint64_t key = random_key(spec.seed);
    if (divides) f(Stochastic<true>{key});
    else f(Stochastic<false>{key});
  } else {
    if (divides) f(ToNearest<true>{});
    else f(ToNearest<false>{});
  }
}

ASSAY_QUANT_INLINE void band(const Job& job, std::int64_t index, Found& found) {
  const std::int64_t cols = job.to.cols, first = index * job.height();
  const int height = static_cast<int>(std::min<std::int64_t>(job.height(), job.to.rows - first));
  const float* const x = job.x + first * cols;
  find_maxima(job, x, height, found.maxima);
  const std::size_t cells = found.maxima.size();
  std::int32_t worst = 0;
  for (std::size_t i = 0; i < cells; ++i) worst = larger(worst, found.maxima[i]);
  const bool all_finite = worst < infinity_bits;
  std::vector<std::size_t> poisoned;
  if (!all_finite) {
    worst = 0;
    for (std::size_t i = 0; i < cells; ++i) {
      if (found.maxima[i] >= infinity_bits) {
        if (job.spec.non_finite == NonFinite::propagate) poisoned.push_back(i);
        found.maxima[i] = finite_maximum(job, x, height, static_cast<std::int64_t>(i));
      }
      worst = larger(worst, found.maxima[i]);
    }
  }
  const OfRule of_rule = find_scales(job, job.spec.scope == Scope::row ? float_of(worst) : job.a, x, height, found);
  for (const std::size_t i : poisoned) found.stored[i] = std::numeric_limits<float>::quiet_NaN();
  with_code(job.spec, of_rule.divides, [&](const auto& code) __attribute__((always_inline)) {
    for (std::int64_t r = first; r < first + height; ++r) {
      const float* from = x + (r - first) * cols;
      const std::int64_t place = (job.first_row + r) * cols;
      double factor = of_rule.tensor_factor;
      const float* scale = found.stored.data();
      if (job.centred && job.spec.format == Format::mxfp4) {
        factor = std::ldexp(factor, centre(job, code, r, from, found));
        scale = found.centred.data();
      }
      job.to.factor[static_cast<std::size_t>(r)] = factor;
      if (holds_bf16(job.unit)) emit_row(job, code, from, place, found.encode.data(), scale, job.to.bf16.data() + r * cols);
      else emit_row(job, code, from, place, found.encode.data(), scale, job.to.fp32.data() + r * cols);
    }
  });
}

// Everything above is inlined into these, so each holds the code for its own processor.
void band_generic(const Job& job, std::int64_t index, Found& found) { band(job, index, found); }
#if defined(__x86_64__)
__attribute__((target("arch=x86-64-v3"))) void band_avx2(const Job& job, std::int64_t index, Found& found) {
  band(job, index, found);
}
#endif

// Elements that are worth a second thread.
constexpr std::int64_t grain = 1 << 15;

}  // namespace

float tensor_max(const float* x, std::int64_t n) {
  constexpr std::int64_t piece = 1 << 16;
  float most = 0;
#pragma omp parallel for reduction(max : most) if (n > grain)
  for (std::int64_t i = 0; i < n; i += piece) most = std::max(most, finite_max(x + i, std::min(piece, n - i)));
  return most;
}

void quantize(const Spec& spec, float a, Unit unit, bool centred, int axis, const float* x, std::int64_t rows,
              std::int64_t cols, Operand& to, std::int64_t first_row) {
  require(spec, axis);
  const auto n = static_cast<std::size_t>(rows * cols);
  to.rows = rows;
  to.cols = cols;
  to.bf16.resize(holds_bf16(unit) ? n : 0);
  to.fp32.resize(unit == Unit::fp32 ? n : 0);
  to.factor.resize(static_cast<std::size_t>(rows));
  to.outside.clear();
  to.outside_blocks = 0;
  to.fp4.clear();
  if (unit == Unit::cuda_fp4) {
    if (const std::string_view wrong = fp4_objection(spec, axis); !wrong.empty()) throw std::invalid_argument(std::string(wrong));
    return quantize_fp4(spec, spec.scope == Scope::fixed ? spec.static_max : a, x, rows, cols, first_row, to.fp4, to.factor);
  }
  const Job job{spec, spec.scope == Scope::fixed ? spec.static_max : a, unit, centred, axis, x, first_row, to};
  const auto cells = static_cast<std::size_t>(job.cells());
#pragma omp parallel if (rows * cols > grain)
  {
    Found found{std::vector<std::int32_t>(cells), std::vector<float>(cells), std::vector<float>(cells),
                std::vector<float>(cells), {}, 0};
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < job.bands(); ++i) {
#if defined(__x86_64__)
      if (available(Path::avx2)) band_avx2(job, i, found);
      else band_generic(job, i, found);
#else
      band_generic(job, i, found);
#endif
    }
#pragma omp critical(assay_product_outside)
    {
      to.outside.insert(to.outside.end(), found.outside.begin(), found.outside.end());
      to.outside_blocks += found.outside_blocks;
    }
  }
  // Threads finish in any order.
  std::sort(to.outside.begin(), to.outside.end(), [](const Outside& l, const Outside& r) {
    return std::tie(l.row, l.col) < std::tie(r.row, r.col);
  });
}

}  // namespace assay::quant::product
