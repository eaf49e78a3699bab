// A tensor and a spec drawn from bytes: what the fuzzer and its stand-in in `make test` hand to quant_invariants.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "quant/fake_quantize.h"

namespace assay::fuzz {

// A matrix of its own in a buffer with room on both sides of every element that the strides leave out.
class Matrix {
 public:
  // How its elements lie; the names are what strides they have.
  enum class Layout : std::uint8_t { contiguous, padded_rows, transposed, spaced, reversed, padded_columns };
  static constexpr int layouts = 6;

  Matrix(quant::Type type, std::int64_t rows, std::int64_t cols, Layout layout);
  quant::ConstView view() const;
  quant::View view();
  // Rows from `first` on, `count` of them.
  quant::View rows(std::int64_t first, std::int64_t count);
  // The elements' bits, row by row (16-bit types in the low half).
  std::vector<std::uint32_t> bits() const;
  void set_bits(std::int64_t r, std::int64_t c, std::uint32_t bits);
  // Whether memory between and around the elements still holds what the constructor left there.
  bool surroundings_untouched() const;

 private:
  std::size_t at(std::int64_t r, std::int64_t c) const;
  std::size_t element_size() const { return type_ == quant::Type::fp32 ? 4 : 2; }

  quant::Type type_;
  std::int64_t rows_, cols_, first_, row_stride_, col_stride_;
  std::vector<std::uint32_t> memory_;  // words, so that fp32 is aligned
};

struct Case {
  quant::Spec spec;                    // format and mode are the invariants' to fill in, as is Scope::fixed's maximum
  float static_max = 0;
  quant::Type type = quant::Type::fp32;
  std::int64_t rows = 0, cols = 0;
  int axis = 1;
  Matrix::Layout in_layout{}, out_layout{};
  std::int64_t cut = 0;                // where pieces are cut, in blocks
  std::vector<std::uint32_t> bits;     // rows x cols, the type's bits
};

// Every byte string is a case: what it lacks is zero, and too few values are repeated. At most 5000 elements.
Case draw(const std::uint8_t* data, std::size_t size);
// For a report: shape, type, spec, layouts.
std::string describe(const Case& drawn);

}  // namespace assay::fuzz
