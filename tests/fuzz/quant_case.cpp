#include "quant_case.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace assay::fuzz {
namespace {

using quant::Type;

constexpr std::uint8_t untouched = 0xa5;
constexpr std::int64_t margin = 8;  // elements before and behind

class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}
  std::uint32_t byte() { return at_ == end_ ? 0 : *at_++; }
  std::uint32_t word() {
    const std::uint32_t low = byte();
    return low | byte() << 8;
  }
  bool empty() const { return at_ == end_; }

 private:
  const std::uint8_t *at_, *end_;
};

std::uint32_t narrow(float x, Type type) {
  if (type == Type::fp32) return std::bit_cast<std::uint32_t>(x);
  return type == Type::bf16 ? quant::encode_bf16(x) : quant::encode_fp16(x);
}

// One value of a byte: near a number of E2M1 or a midpoint of two, times 2^octave, so that ties come up, and the values
// of a block lie near each other.
float near_the_grid(std::uint32_t byte, int octave) {
  static constexpr float values[] = {0,    0.25f, 0.5f, 0.75f, 1,    1.25f, 1.5f,  1.75f,
                                     2.5f, 3,     3.5f, 4,     5,    6,     6.4f,  448};
  const float v = std::ldexp(values[byte & 15], octave);
  const int step = static_cast<int>((byte >> 4) & 7) - 3;  // -3 to 4 ulps beside it
  const auto bits = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(v)) + step;
  const float moved = v == 0 ? 0.0f : std::bit_cast<float>(static_cast<std::uint32_t>(bits));
  return byte & 128 ? -moved : moved;
}

}  // namespace

Matrix::Matrix(Type type, std::int64_t rows, std::int64_t cols, Layout layout)
    : type_(type), rows_(rows), cols_(cols), first_(margin), row_stride_(cols), col_stride_(1) {
  switch (layout) {
    case Layout::contiguous: break;
    case Layout::padded_rows: row_stride_ = cols + 3; break;
    case Layout::transposed: row_stride_ = 1, col_stride_ = rows; break;
    case Layout::spaced: row_stride_ = 2 * cols + 1, col_stride_ = 2; break;
    case Layout::reversed:
      row_stride_ = -cols, col_stride_ = -1, first_ += std::max<std::int64_t>(rows * cols, 1) - 1;
      break;
    case Layout::padded_columns: row_stride_ = 1, col_stride_ = rows + 2; break;
  }
  const std::int64_t span = (rows + 3) * (cols + 3) * 2 + 2 * margin;
  memory_.resize((static_cast<std::size_t>(span) * element_size() + 3) / 4);
  std::memset(memory_.data(), untouched, memory_.size() * 4);
}

quant::ConstView Matrix::view() const {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(memory_.data());
  return {bytes + static_cast<std::size_t>(first_) * element_size(), type_, rows_, cols_, row_stride_, col_stride_};
}

quant::View Matrix::view() { return rows(0, rows_); }

quant::View Matrix::rows(std::int64_t first, std::int64_t count) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(memory_.data());
  const std::int64_t start = first_ + first * row_stride_;
  return {bytes + static_cast<std::size_t>(start) * element_size(), type_, count, cols_, row_stride_, col_stride_};
}

std::size_t Matrix::at(std::int64_t r, std::int64_t c) const {
  return static_cast<std::size_t>(first_ + r * row_stride_ + c * col_stride_) * element_size();
}

std::vector<std::uint32_t> Matrix::bits() const {
  std::vector<std::uint32_t> all;
  all.reserve(static_cast<std::size_t>(rows_ * cols_));
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(memory_.data());
  for (std::int64_t r = 0; r < rows_; ++r) {
    for (std::int64_t c = 0; c < cols_; ++c) {
      std::uint32_t word = 0;  // little-endian, as the fast paths' processors are
      std::memcpy(&word, bytes + at(r, c), element_size());
      all.push_back(word);
    }
  }
  return all;
}

void Matrix::set_bits(std::int64_t r, std::int64_t c, std::uint32_t bits) {
  std::memcpy(reinterpret_cast<std::uint8_t*>(memory_.data()) + at(r, c), &bits, element_size());
}

bool Matrix::surroundings_untouched() const {
  Matrix without = *this;
  std::uint32_t mark;
  std::memset(&mark, untouched, sizeof mark);
  for (std::int64_t r = 0; r < rows_; ++r)
    for (std::int64_t c = 0; c < cols_; ++c) without.set_bits(r, c, mark);
  return std::all_of(without.memory_.begin(), without.memory_.end(), [&](std::uint32_t word) { return word == mark; });
}

Case draw(const std::uint8_t* data, std::size_t size) {
  Reader reader(data, size);
  Case drawn;
  const std::uint32_t choices = reader.byte(), layout = reader.byte(), kind = reader.byte();
  drawn.type = static_cast<Type>(choices % 3);
  drawn.axis = choices / 3 & 1;
  drawn.spec.non_finite = choices & 16 ? quant::NonFinite::hw_saturate : quant::NonFinite::propagate;
  drawn.spec.rounding = choices & 32 ? quant::Rounding::stochastic : quant::Rounding::nearest_even;
  drawn.spec.scope = static_cast<quant::Scope>((choices >> 6) % 3);
  drawn.spec.tiles = kind & 1;
  drawn.in_layout = static_cast<Matrix::Layout>(layout % Matrix::layouts);
  drawn.out_layout = static_cast<Matrix::Layout>(layout / Matrix::layouts % Matrix::layouts);
  drawn.rows = reader.byte();
  drawn.cols = reader.byte();
  if (kind & 2) std::swap(drawn.rows, drawn.cols);
  // Long rows go past a chunk of 128 blocks; those are few, since they cost time.
  const bool is_long = (kind & 0xf0) == 0xf0;
  if (is_long) drawn.cols = drawn.cols * 16 + drawn.rows;
  drawn.rows = std::min(drawn.rows, (is_long ? 5000 : 400) / std::max<std::int64_t>(drawn.cols, 1));
  drawn.cut = reader.byte();
  drawn.spec.seed = reader.word();
  const std::uint32_t max_bits = reader.word() << 16 | 0x1234;
  const float max = std::fabs(std::bit_cast<float>(max_bits));
  drawn.static_max = std::isfinite(max) ? max : 0;

  const auto n = static_cast<std::size_t>(drawn.rows * drawn.cols);
  const int octave = static_cast<int>(reader.byte()) - 128;
  std::vector<std::uint32_t> values;
  while (!reader.empty() && values.size() < n) {
    if (kind & 4) {
      values.push_back(narrow(near_the_grid(reader.byte(), octave), drawn.type));
    } else {
      const std::uint32_t low = reader.word();
      values.push_back(drawn.type == Type::fp32 ? low | reader.word() << 16 : low);
    }
  }
  if (values.empty()) values.push_back(0);
  for (std::size_t i = 0; i < n; ++i) drawn.bits.push_back(values[i % values.size()]);
  return drawn;
}

std::string describe(const Case& drawn) {
  static constexpr const char* layouts[] = {"contiguous", "padded rows", "transposed", "spaced", "reversed", "padded columns"};
  std::string text = std::to_string(drawn.rows) + "x" + std::to_string(drawn.cols) + " " + std::string(name(drawn.type));
  text += ", axis " + std::to_string(drawn.axis) + ", " + std::string(name(drawn.spec.format)) + " " +
          std::string(name(drawn.spec.mode)) + ", scope " + std::string(name(drawn.spec.scope)) + ", " +
          std::string(name(drawn.spec.non_finite)) + ", " + std::string(name(drawn.spec.rounding));
  if (drawn.spec.tiles) text += ", tiles";
  if (drawn.spec.scope == quant::Scope::fixed) text += ", maximum " + std::to_string(drawn.spec.static_max);
  if (drawn.spec.rounding == quant::Rounding::stochastic) text += ", seed " + std::to_string(drawn.spec.seed);
  text += std::string(", in ") + layouts[static_cast<int>(drawn.in_layout)] + ", out " +
          layouts[static_cast<int>(drawn.out_layout)];
  return text;
}

}  // namespace assay::fuzz
