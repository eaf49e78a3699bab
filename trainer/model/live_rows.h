// The rows of a gradient that hold anything but zeros.
//
// A group whose samples all scored alike has no advantage, and whatever only its tokens led to has a gradient of zeros: in
// E13 two rows of five. A backward that leaves such rows out makes the same bits: each sum lacks only terms of 0, and a
// sum over tokens keeps its pieces (quant/gemm/gemm.h) where they were. Finding the rows costs one pass over the gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace assay::train {

// Rows of a matrix. Several: ascending, apart.
struct RowPiece {
  std::int64_t begin, end;
};
std::int64_t count_rows(const std::vector<RowPiece>& pieces);
// f(a piece or a part of one, the rows of the pieces in front of it), over all of them. LibTorch's threads share the rows, however
// they lie in pieces, if each gets `grain` of them or more.
void over_pieces(const std::vector<RowPiece>& pieces, std::int64_t grain, const std::function<void(RowPiece, std::int64_t)>& f);

class LiveRows {
 public:
  explicit LiveRows(const at::Tensor& dy);  // [M, N], float32, contiguous, on the CPU

  bool all() const { return count_ == rows_; }
  const std::vector<RowPiece>& pieces() const { return pieces_; }
  // t [M, K] without the other rows; t itself where there are none.
  at::Tensor gather(const at::Tensor& t) const;
  // Where rows 0, size, 2 size, … and M begin in what gather() makes.
  std::vector<std::int64_t> starts(std::int64_t size) const;
  // Sets the other rows of t [M, K] to 0.
  void clear_others(at::Tensor& t) const;

 private:
  std::vector<RowPiece> pieces_;
  std::int64_t rows_ = 0, count_ = 0;
};

// Whether n numbers are all 0 or -0.
bool all_zero(const float* x, std::int64_t n);

}  // namespace assay::train
