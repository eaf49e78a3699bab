#include "quant_invariants.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <vector>

#include "quant/half.h"
#include "quant/packed.h"
#include "quant/reference.h"
#include "quant_case.h"

namespace assay::fuzz {
namespace {

using namespace quant;

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

float widen(std::uint32_t bits, Type type) {
  if (type == Type::fp32) return std::bit_cast<float>(bits);
  const auto half = static_cast<std::uint16_t>(bits);
  return type == Type::bf16 ? decode_bf16(half) : decode_fp16(half);
}

std::uint32_t narrow(float x, Type type) {
  if (type == Type::fp32) return bits_of(x);
  return type == Type::bf16 ? encode_bf16(x) : encode_fp16(x);
}

// The oracle's view of one matrix: each block by itself, one after the other.
struct Expected {
  std::vector<float> out;
  std::vector<std::uint8_t> codes;
  std::vector<std::size_t> block;  // of each element
  std::vector<BlockResult> blocks;
  std::vector<float> max;          // A of each block's formulas
  std::int64_t saturated = 0;
};

class Checker {
 public:
  Checker(const Case& drawn, const Spec& spec) : drawn_(drawn), spec_(spec), rows_(drawn.rows), cols_(drawn.cols) {
    for (std::uint32_t bits : drawn.bits) x_.push_back(widen(bits, drawn.type));
    all_finite_ = std::all_of(x_.begin(), x_.end(), [](float v) { return std::isfinite(v); });
    for (float v : x_) max_ = std::isfinite(v) ? std::max(max_, std::fabs(v)) : max_;
    height_ = spec.tiles || drawn.axis == 0 ? spec.block() : 1;
    width_ = spec.tiles || drawn.axis == 1 ? spec.block() : 1;
  }

  std::string run() {
    once_ = expected(x_, spec_.rounding);
    grid();
    if (spec_.rounding == Rounding::stochastic) neighbours();
    paths();
    pieces();
    packed();
    transposed();
    padded();
    sign();
    if (spec_.rounding == Rounding::nearest_even) order();
    idempotence();
    return finding_;
  }

 private:
  void fail(const std::string& what, std::size_t i, double got, double wanted) {
    if (!finding_.empty()) return;
    Case named = drawn_;
    named.spec = spec_;
    char text[200];
    std::snprintf(text, sizeof text, " at row %lld, column %lld: %.9g (%a), wanted %.9g (%a), input %.9g (%a); ",
                  static_cast<long long>(cols_ ? static_cast<std::int64_t>(i) / cols_ : 0),
                  static_cast<long long>(cols_ ? static_cast<std::int64_t>(i) % cols_ : 0), got, got, wanted, wanted,
                  i < x_.size() ? static_cast<double>(x_[i]) : 0, i < x_.size() ? static_cast<double>(x_[i]) : 0);
    finding_ = what + text + describe(named);
  }

  std::size_t at(std::int64_t r, std::int64_t c) const { return static_cast<std::size_t>(r * cols_ + c); }

  float tensor_max(const std::vector<float>& x, std::int64_t row) const {
    if (spec_.scope == Scope::fixed) return spec_.static_max;
    const auto first = spec_.scope == Scope::row ? at(row, 0) : 0;
    const auto last = spec_.scope == Scope::row ? at(row + 1, 0) : x.size();
    float max = 0;
    for (std::size_t i = first; i < last; ++i) max = std::isfinite(x[i]) ? std::max(max, std::fabs(x[i])) : max;
    return max;
  }

  Expected expected(const std::vector<float>& x, Rounding rounding) const {
    Spec spec = spec_;
    spec.rounding = rounding;
    Expected e;
    e.out.resize(x.size());
    e.codes.resize(x.size());
    e.block.resize(x.size());
    const float whole = spec.scope == Scope::row ? 0 : tensor_max(x, 0);
    for (std::int64_t r = 0; r < rows_; r += height_) {
      const float a = spec.scope == Scope::row ? tensor_max(x, r) : whole;
      for (std::int64_t c = 0; c < cols_; c += width_) {
        const std::int64_t height = std::min(height_, rows_ - r), width = std::min(width_, cols_ - c);
        std::vector<float> block;
        for (std::int64_t i = r; i < r + height; ++i)
          for (std::int64_t j = c; j < c + width; ++j) block.push_back(x[at(i, j)]);
        std::vector<float> out(block.size());
        std::vector<std::uint8_t> codes(block.size());
        const BlockShape shape{static_cast<int>(height), static_cast<int>(width), width, 1, r * cols_ + c, cols_};
        const BlockResult result = reference_block(spec, a, block.data(), out.data(), shape, codes.data());
        for (std::size_t k = 0; k < out.size(); ++k) {
          const auto element = at(r + static_cast<std::int64_t>(k) / width, c + static_cast<std::int64_t>(k) % width);
          e.out[element] = out[k], e.codes[element] = codes[k], e.block[element] = e.blocks.size();
        }
        e.blocks.push_back(result);
        e.max.push_back(a);
        e.saturated += result.saturated;
      }
    }
    return e;
  }

  // Whether encode and decode are each other's inverse to a few ulps: no fp32 scale near the ends of its range.
  bool scales_in_range(std::size_t block, const Expected& e) const {
    if (!has_tensor_scale(spec_.mode)) return true;
    return e.max[block] >= 0x1p-90f && e.max[block] <= 0x1p100f && e.blocks[block].stored != 0;
  }

  void grid() {
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const BlockResult& block = once_.blocks[once_.block[i]];
      const float out = once_.out[i];
      if (block.poisoned) {
        if (!std::isnan(out)) fail("poisoned block with a number", i, out, NAN);
        continue;
      }
      const float product = decode_e2m1(once_.codes[i]) * block.decode;
      if (bits_of(out) != bits_of(product) || std::isnan(out)) fail("output off the grid", i, out, product);
      const float stored = is_mxfp4(spec_.mode) ? decode_e8m0(encode_e8m0(block.stored)) : decode_e4m3(encode_e4m3(block.stored));
      if (stored != block.stored || std::signbit(stored)) fail("block scale off its grid", i, block.stored, stored);
      if (!(block.decode >= 0) || std::isinf(block.decode)) fail("decode is no scale", i, block.decode, 0);
      if (spec_.rounding == Rounding::stochastic || !std::isfinite(x_[i]) || std::isinf(out)) continue;
      if (!scales_in_range(once_.block[i], once_)) continue;
      const double x = x_[i], slack = has_tensor_scale(spec_.mode) ? 0x1p-20 * std::fabs(x) : 0;
      for (std::uint8_t code = 0; code < 16; ++code) {
        const double other = static_cast<double>(decode_e2m1(code)) * block.decode;
        if (std::fabs(x - other) + slack < std::fabs(x - out)) fail("a nearer number of the grid is there", i, out, other);
      }
    }
  }

  // Stochastic codes are the nearest one or one beside it, under the same scale; ±6 for what saturates.
  void neighbours() {
    const Expected nearest = expected(x_, Rounding::nearest_even);
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const int a = once_.codes[i], b = nearest.codes[i];
      if ((a & 8) != (b & 8) || std::abs((a & 7) - (b & 7)) > 1) fail("stochastic code is no neighbour", i, a, b);
      if (once_.blocks[once_.block[i]].decode != nearest.blocks[nearest.block[i]].decode) {
        fail("stochastic rounding changed a scale", i, once_.blocks[once_.block[i]].decode, nearest.blocks[nearest.block[i]].decode);
      }
    }
  }

  Matrix input() const {
    Matrix in(drawn_.type, rows_, cols_, drawn_.in_layout);
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::int64_t c = 0; c < cols_; ++c) in.set_bits(r, c, drawn_.bits[at(r, c)]);
    return in;
  }

  void compare(const std::string& what, const Matrix& out) {
    const std::vector<std::uint32_t> bits = out.bits();
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const std::uint32_t wanted = narrow(once_.out[i], drawn_.type);
      if (bits[i] != wanted) fail(what, i, widen(bits[i], drawn_.type), widen(wanted, drawn_.type));
    }
    if (!out.surroundings_untouched()) fail(what + ": wrote beside the matrix", 0, 0, 0);
  }

  void paths() {
    const Matrix in = input();
    const float max = finite_max(in.view());
    if (max != max_) fail("finite_max", 0, max, max_);
    for (const Path path : {Path::reference, Path::generic, Path::avx2, Path::avx512}) {
      if (!available(path)) continue;
      const std::string named = "path " + std::string(name(path));
      Matrix out(drawn_.type, rows_, cols_, drawn_.out_layout);
      fake_quantize_piece(spec_, max, in.view(), out.view(), drawn_.axis, 0, nullptr, path);
      compare(named, out);
      Matrix both = in;
      ErrorStats stats;
      const ConstView self = as_const(both.view());
      fake_quantize_piece(spec_, max, self, both.view(), drawn_.axis, 0, &stats, path);
      compare(named + " in place", both);
      if (stats.saturated != once_.saturated) {
        fail(named + ": saturated count", 0, static_cast<double>(stats.saturated), static_cast<double>(once_.saturated));
      }
      if (stats.count + stats.non_finite != rows_ * cols_) {
        fail(named + ": elements counted", 0, static_cast<double>(stats.count + stats.non_finite), static_cast<double>(rows_ * cols_));
      }
    }
  }

  void pieces() {
    Matrix in = input(), out(drawn_.type, rows_, cols_, drawn_.out_layout);
    const std::int64_t step = (1 + drawn_.cut % 5) * height_;
    for (std::int64_t r = 0; r < rows_; r += step) {
      const std::int64_t count = std::min(step, rows_ - r);
      fake_quantize_piece(spec_, max_, as_const(in.rows(r, count)), out.rows(r, count), drawn_.axis, r);
    }
    compare("pieces", out);
  }

  // Codes and scales stand for what fake quantization gives, on every path the same bytes.
  void packed() {
    const Matrix in = input();
    const Packed whole = pack(spec_, in.view(), drawn_.axis);
    const float max = spec_.scope == Scope::fixed ? spec_.static_max : max_;
    for (const Path path : {Path::reference, Path::generic, Path::avx2, Path::avx512}) {
      if (!available(path)) continue;
      std::vector<std::uint8_t> codes(whole.codes.size()), scales(whole.scales.size());
      std::vector<float> row_maxima(spec_.scope == Scope::row ? static_cast<std::size_t>(rows_) : 0), out(x_.size());
      float* maxima = spec_.scope == Scope::row ? row_maxima.data() : nullptr;
      pack_piece(spec_, max, in.view(), drawn_.axis, 0, codes.data(), scales.data(), maxima, path);
      if (codes != whole.codes || scales != whole.scales) fail("packed bytes, path " + std::string(name(path)), 0, 0, 0);
      dequantize_piece(spec_, max, maxima, codes.data(), scales.data(), rows_, cols_, drawn_.axis, out.data(), path);
      for (std::size_t i = 0; i < out.size(); ++i) {
        if (bits_of(out[i]) != bits_of(once_.out[i]) && !(std::isnan(out[i]) && std::isnan(once_.out[i]))) {
          fail("unpacked, path " + std::string(name(path)), i, out[i], once_.out[i]);
        }
      }
    }
  }

  // A matrix turned, with its axis, gives the turned result. Not where the order counts: random bits go by an element's
  // place, and Four-over-Six sums a tile row by row.
  void transposed() {
    const bool four_over_six = spec_.mode == Mode::te46 || spec_.mode == Mode::te46_mae;
    if (spec_.rounding == Rounding::stochastic || spec_.scope == Scope::row || (spec_.tiles && four_over_six)) return;
    const auto turn = [](auto view) {
      std::swap(view.rows, view.cols);
      std::swap(view.row_stride, view.col_stride);
      return view;
    };
    const Matrix in = input();
    Matrix out(drawn_.type, rows_, cols_, drawn_.out_layout);
    fake_quantize(spec_, turn(in.view()), turn(out.view()), 1 - drawn_.axis);
    compare("transposed", out);
  }

  // Zeros up to whole blocks. Random bits go by row * cols + column, so only whole rows may be added to those.
  void padded() {
    if (spec_.rounding == Rounding::stochastic && width_ > 1) return;
    const std::int64_t rows = (rows_ + height_ - 1) / height_ * height_, cols = (cols_ + width_ - 1) / width_ * width_;
    std::vector<float> x(static_cast<std::size_t>(rows * cols)), out(x.size());
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::int64_t c = 0; c < cols_; ++c) x[static_cast<std::size_t>(r * cols + c)] = x_[at(r, c)];
    fake_quantize(spec_, x.data(), out.data(), rows, cols, drawn_.axis);
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < cols_; ++c) {
        const float got = out[static_cast<std::size_t>(r * cols + c)], wanted = once_.out[at(r, c)];
        if (bits_of(got) != bits_of(wanted)) fail("padded with zeros", at(r, c), got, wanted);
      }
    }
  }

  // Aside: NaN has no sign to keep (hw_saturate makes it +6 scales), and compressed-tensors' zeros are all positive.
  void sign() {
    std::vector<float> mirrored;
    for (float v : x_) mirrored.push_back(-v);
    std::vector<float> out(x_.size());
    fake_quantize(spec_, mirrored.data(), out.data(), rows_, cols_, drawn_.axis);
    const bool unsigned_zeros = spec_.mode == Mode::ct || spec_.mode == Mode::ct_bf16;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const float wanted = -once_.out[i];
      if (std::isnan(x_[i]) || (std::isnan(wanted) && std::isnan(out[i])) || (unsigned_zeros && wanted == 0 && out[i] == 0)) continue;
      if (bits_of(out[i]) != bits_of(wanted)) fail("sign symmetry", i, out[i], wanted);
    }
  }

  void order() {
    std::vector<std::size_t> sorted(x_.size());
    std::iota(sorted.begin(), sorted.end(), std::size_t{0});
    std::erase_if(sorted, [&](std::size_t i) { return std::isnan(x_[i]) || once_.blocks[once_.block[i]].poisoned; });
    std::sort(sorted.begin(), sorted.end(), [&](std::size_t i, std::size_t j) {
      return once_.block[i] != once_.block[j] ? once_.block[i] < once_.block[j] : x_[i] < x_[j];
    });
    for (std::size_t k = 1; k < sorted.size(); ++k) {
      const std::size_t i = sorted[k - 1], j = sorted[k];
      if (once_.block[i] == once_.block[j] && once_.out[i] > once_.out[j]) fail("order within a block", j, once_.out[j], once_.out[i]);
    }
  }

  void idempotence();

  const Case& drawn_;
  const Spec spec_;
  const std::int64_t rows_, cols_;
  std::int64_t height_ = 1, width_ = 1;
  std::vector<float> x_;  // the input in fp32
  bool all_finite_ = true;
  float max_ = 0;
  Expected once_;
  std::string finding_;
};

// Where quantizing twice changes nothing.
//   MXFP4                       to the bit, with stochastic rounding too: the scale is a power of two that either comes up
//                               again, or (ceil, rceil, even) half of it does, which has all the block's numbers as well
//   torchao_one_level, nearest  to the bit: the block's largest code is 6 wherever its scale is not clamped
//   a tensor scale, nearest     where block scales are normal E4M3 numbers. To the bit with a calibrated maximum; else the
//                               maximum itself moves by an ulp or two, and every output with it (ct_bf16: of bf16)
// Not elsewhere: a subnormal block scale rounds so coarsely that the largest code may be 3, and half of that scale (or 0)
// comes up; with stochastic rounding the largest code may be 4, and two thirds of an E4M3 scale; Inf under hw_saturate
// gives a block another maximum; near the ends of fp32 the scales clamp, and Four-over-Six's errors leave its range.
void Checker::idempotence() {
  if (!all_finite_) return;
  const bool tensor_scale = has_tensor_scale(spec_.mode);
  if (!is_mxfp4(spec_.mode) && spec_.rounding == Rounding::stochastic) return;
  if (std::any_of(once_.out.begin(), once_.out.end(), [](float v) { return std::isinf(v); })) return;
  const bool four_over_six = spec_.mode == Mode::te46 || spec_.mode == Mode::te46_mae;
  const Expected twice = expected(once_.out, spec_.rounding);
  for (std::size_t i = 0; i < x_.size(); ++i) {
    const BlockResult& block = once_.blocks[once_.block[i]];
    const float a = once_.max[once_.block[i]], once = once_.out[i], again = twice.out[i];
    double slack = 0;
    if (tensor_scale) {
      if (a < (four_over_six ? 0x1p-30f : 0x1p-90f) || a > 0x1p100f || block.stored < (four_over_six ? 0x1p-5f : 0x1p-6f)) continue;
      if (spec_.scope != Scope::fixed) slack = (spec_.mode == Mode::ct_bf16 ? 0x1p-7 : 0x1p-21) * std::fabs(once);
    }
    if (std::fabs(static_cast<double>(again) - once) > slack) fail("idempotence", i, again, once);
  }
}

void codecs(std::uint32_t bits, Type type, std::string& finding) {
  const float x = widen(bits, type);
  const auto check = [&](bool kept, const char* what) {
    if (kept || !finding.empty()) return;
    char text[120];
    std::snprintf(text, sizeof text, "%s of %.9g (%a, %08x)", what, static_cast<double>(x), static_cast<double>(x), bits_of(x));
    finding = text;
  };
  // Encoded, decoded, encoded again; block.h's result; no neighbour on the grid is nearer.
  const auto grid = [&](const char* what, float v, auto encode, auto decode, unsigned last, float rounded) {
    const auto code = encode(v);
    const float d = decode(code);
    check(bits_of(d) == bits_of(rounded), what);
    check(encode(d) == code, what);
    check(std::signbit(d) == std::signbit(v), what);
    const unsigned magnitude = code & last;
    for (const unsigned other : {magnitude - 1, magnitude + 1}) {
      if (other > last) continue;
      const double there = decode(static_cast<decltype(code)>(other));
      const double distance = std::fabs(std::fabs(static_cast<double>(v)) - std::fabs(static_cast<double>(d)));
      if (std::isfinite(there) && std::isfinite(distance)) check(distance <= std::fabs(std::fabs(static_cast<double>(v)) - there), what);
    }
  };
  if (std::isnan(x)) {
    check(std::isnan(decode_e4m3(encode_e4m3(x))), "E4M3");
    check(encode_bf16(x) == block::to_bf16(x) && std::isnan(decode_bf16(encode_bf16(x))), "bf16");
    check(encode_fp16(x) == block::to_fp16(x) && std::isnan(decode_fp16(encode_fp16(x))), "fp16");
  } else {
    grid("E2M1", x, encode_e2m1, decode_e2m1, 7, block::round_e2m1(x));
    const float a = std::fabs(x);
    grid("E4M3", a, encode_e4m3, decode_e4m3, 0x7f, block::round_e4m3(a));
    grid("bf16", x, encode_bf16, decode_bf16, 0x7fff, block::from_bf16(block::to_bf16(x)));
    grid("fp16", x, encode_fp16, decode_fp16, 0x7fff, block::from_fp16(block::to_fp16(x)));
    check(encode_e4m3(x) == (encode_e4m3(a) | (std::signbit(x) ? 0x80 : 0)), "E4M3's sign");
  }
  const auto byte = static_cast<std::uint8_t>(bits);
  check(byte == 255 ? std::isnan(decode_e8m0(byte)) : encode_e8m0(decode_e8m0(byte)) == byte, "E8M0");
}

// What the mode has of the drawn spec.
Spec adapted(const Case& drawn, Format format, Mode mode) {
  Spec spec = drawn.spec;
  spec.format = format;
  spec.mode = mode;
  if (format != Format::nvfp4) spec.tiles = false;
  if (!has_tensor_scale(mode) || (spec.scope == Scope::row && (drawn.axis == 0 || spec.tiles))) spec.scope = Scope::tensor;
  if (spec.scope == Scope::fixed) spec.static_max = drawn.static_max;
  if (mode == Mode::te46 || mode == Mode::te46_mae) spec.rounding = Rounding::nearest_even;
  return spec;
}

}  // namespace

std::string quant_finding(const std::uint8_t* data, std::size_t size) {
  const Case drawn = draw(data, size);
  std::string finding;
  for (std::size_t i = 0; i < std::min<std::size_t>(drawn.bits.size(), 256); ++i) codecs(drawn.bits[i], drawn.type, finding);
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    for (const std::string& mode : mode_names(format)) {
      if (!finding.empty()) return finding;
      const Spec spec = adapted(drawn, format, *parse_mode(format, mode));
      if (const auto objected = objection(spec, drawn.axis); !objected.empty()) return "objection: " + std::string(objected);
      finding = Checker(drawn, spec).run();
    }
  }
  return finding;
}

}  // namespace assay::fuzz
