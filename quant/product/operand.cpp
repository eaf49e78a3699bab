#include "quant/product/operand.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>

#include "quant/block.h"
#include "quant/fake_quantize.h"

namespace assay::quant::product {
namespace {

using namespace block;

// Rows that share their scales: one with axis 1, a block's height with axis 0.
struct Job {
  const Spec& spec;
  float a;
  Unit unit;
  bool centred;
  int axis;
  const float* x;
  Operand& to;

  int height() const { return axis == 1 ? 1 : spec.block(); }
  int width() const { return axis == 1 ? spec.block() : 1; }
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

template <class Rule>
float factor_of(float a) {
  if constexpr (std::is_same_v<Rule, Te>) return a * one_2688th;
  return 1;
}

ASSAY_QUANT_INLINE void find_maxima(const Job& job, const float* x, int height, std::vector<std::int32_t>& maxima) {
  const std::int64_t cols = job.to.cols;
  if (job.axis == 0) {
    std::fill(maxima.begin(), maxima.end(), 0);
    for (int r = 0; r < height; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        maxima[static_cast<std::size_t>(c)] = larger(maxima[static_cast<std::size_t>(c)], abs_bits(x[r * cols + c]));
      }
    }
    return;
  }
  const int width = job.width();
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

// NaN takes code +6 under hw_saturate, as Inf does by itself. Under propagate, where its scale is NaN, it does not matter.
ASSAY_QUANT_INLINE float code(float x, float encode) {
  return round_e2m1((x != x ? std::numeric_limits<float>::infinity() : x) * encode);
}

ASSAY_QUANT_INLINE void put(float* to, std::int64_t at, float v) { to[at] = v; }
ASSAY_QUANT_INLINE void put(std::uint16_t* to, std::int64_t at, float v) {  // exact: the bits cut off are 0
  to[at] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(bits_of(v)) >> 16);
}

template <int Width, class Element>
ASSAY_QUANT_INLINE void emit(const float* x, std::int64_t cols, const float* encode, const float* scale, Element* to) {
  if constexpr (Width == 1) {
    for (std::int64_t c = 0; c < cols; ++c) put(to, c, code(x[c], encode[c]) * scale[c]);
  } else {
    const std::int64_t whole = cols / Width;
    for (std::int64_t b = 0; b < whole; ++b) {
      const float to_code = encode[b], from_code = scale[b];
#pragma GCC unroll 1
      for (int i = 0; i < Width; ++i) put(to, b * Width + i, code(x[b * Width + i], to_code) * from_code);
    }
    for (std::int64_t c = whole * Width; c < cols; ++c) put(to, c, code(x[c], encode[whole]) * scale[whole]);
  }
}

template <class Element>
ASSAY_QUANT_INLINE void emit_row(const Job& job, const float* x, const float* encode, const float* scale, Element* to) {
  switch (job.width()) {
    case 1: return emit<1>(x, job.to.cols, encode, scale, to);
    case 16: return emit<16>(x, job.to.cols, encode, scale, to);
    default: return emit<32>(x, job.to.cols, encode, scale, to);
  }
}

// The exponent of a power of two down to 2^-127, which is subnormal.
int exponent_of(float power) { return (bits_of(power) >> 23) - 127; }

// Takes a power of two out of row r: fills found.centred, notes what then lies outside, returns the power's exponent.
int centre(const Job& job, std::int64_t r, const float* x, Found& found) {
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
        const double value = static_cast<double>(code(x[c], found.encode[i])) * stored;
        if (value != 0) found.outside.push_back({r, c, value});
      }
      found.outside_blocks += found.outside.size() > before;
    }
  }
  return most - top;
}

template <class Rule>
ASSAY_QUANT_INLINE void band(const Job& job, std::int64_t index, Found& found) {
  const std::int64_t cols = job.to.cols, first = index * job.height();
  const int height = static_cast<int>(std::min<std::int64_t>(job.height(), job.to.rows - first));
  const float* x = job.x + first * cols;
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
  const float a = job.spec.scope == Scope::row ? float_of(worst) : job.a;
  const Rule rule(a);
  for (std::size_t i = 0; i < cells; ++i) {
    const Scale scale = rule(float_of(found.maxima[i]));
    found.encode[i] = scale.encode;
    found.stored[i] = scale.stored;
  }
  for (const std::size_t i : poisoned) found.stored[i] = std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t r = first; r < first + height; ++r, x += cols) {
    double factor = factor_of<Rule>(a);
    const float* scale = found.stored.data();
    if (job.centred && job.spec.format == Format::mxfp4) {
      factor = std::ldexp(factor, centre(job, r, x, found));
      scale = found.centred.data();
    }
    job.to.factor[static_cast<std::size_t>(r)] = factor;
    if (job.unit == Unit::bf16) emit_row(job, x, found.encode.data(), scale, job.to.bf16.data() + r * cols);
    else emit_row(job, x, found.encode.data(), scale, job.to.fp32.data() + r * cols);
  }
}

ASSAY_QUANT_INLINE void bands(const Job& job, std::int64_t from, std::int64_t to, Found& found) {
  for (std::int64_t i = from; i < to; ++i) {
    switch (job.spec.mode) {
      case Mode::te: band<Te>(job, i, found); break;
      case Mode::torchao_one_level: band<OneLevel>(job, i, found); break;
      case Mode::floor: band<Floor>(job, i, found); break;
    }
  }
}

// Everything above is inlined into these, so each holds the code for its own processor.
void bands_generic(const Job& job, std::int64_t from, std::int64_t to, Found& found) { bands(job, from, to, found); }
#if defined(__x86_64__)
__attribute__((target("arch=x86-64-v3"))) void bands_avx2(const Job& job, std::int64_t from, std::int64_t to,
                                                          Found& found) {
  bands(job, from, to, found);
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
              std::int64_t cols, Operand& to) {
  assert(axis == 0 || axis == 1);
  assert(!(spec.scope == Scope::row && axis == 0));
  assert((spec.mode == Mode::floor) == (spec.format == Format::mxfp4));
  const auto n = static_cast<std::size_t>(rows * cols);
  to.rows = rows;
  to.cols = cols;
  to.bf16.resize(unit == Unit::bf16 ? n : 0);
  to.fp32.resize(unit == Unit::fp32 ? n : 0);
  to.factor.resize(static_cast<std::size_t>(rows));
  to.outside.clear();
  to.outside_blocks = 0;
  const Job job{spec, a, unit, centred, axis, x, to};
  const auto cells = static_cast<std::size_t>(job.cells());
#pragma omp parallel if (rows * cols > grain)
  {
    Found found{std::vector<std::int32_t>(cells), std::vector<float>(cells), std::vector<float>(cells),
                std::vector<float>(cells), {}, 0};
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < job.bands(); ++i) {
#if defined(__x86_64__)
      if (available(Path::avx2)) bands_avx2(job, i, i + 1, found);
      else bands_generic(job, i, i + 1, found);
#else
      bands_generic(job, i, i + 1, found);
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
