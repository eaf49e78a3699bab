#include "trainer/model/live_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "quant/torch/parallel.h"
#include "trainer/model/graph.h"

namespace assay::train {

namespace {

// A gap of fewer rows is not worth a product's second beginning.
constexpr std::int64_t least_gap = 8;

// Rows that are worth a second thread to whoever does next to nothing with them.
std::int64_t grain(std::int64_t width) { return std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, width)); }

}  // namespace

std::int64_t count_rows(const std::vector<RowPiece>& pieces) {
  std::int64_t count = 0;
  for (const RowPiece& piece : pieces) count += piece.end - piece.begin;
  return count;
}

void over_pieces(const std::vector<RowPiece>& pieces, std::int64_t grain, const std::function<void(RowPiece, std::int64_t)>& f) {
  over_rows(count_rows(pieces), grain, [&](std::int64_t from, std::int64_t to) {
    std::int64_t before = 0;
    for (const RowPiece& piece : pieces) {
      const std::int64_t n = piece.end - piece.begin, first = std::max<std::int64_t>(0, from - before), last = std::min(n, to - before);
      if (first < last) f({piece.begin + first, piece.begin + last}, before + first);
      before += n;
    }
  });
}

bool all_zero(const float* x, std::int64_t n) {
  std::int64_t at = 0;
  for (; at + 16 <= n; at += 16) {
    std::uint32_t bits = 0, word[16];
    std::memcpy(word, x + at, sizeof word);
    for (const std::uint32_t w : word) bits |= w;
    if ((bits << 1) != 0) return false;
  }
  for (; at < n; ++at)
    if (x[at] != 0) return false;
  return true;
}

LiveRows::LiveRows(const at::Tensor& dy) : rows_(dy.size(0)) {
  const std::int64_t width = dy.size(1);
  const float* p = data(dy);
  std::vector<char> dead(static_cast<std::size_t>(rows_));  // not of bool: threads write to neighbours
  over_rows(rows_, grain(width), [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t r = from; r < to; ++r) dead[static_cast<std::size_t>(r)] = all_zero(p + r * width, width);
  });
  for (std::int64_t r = 0; r < rows_; ++r) {
    if (dead[static_cast<std::size_t>(r)]) continue;
    if (!pieces_.empty() && r - pieces_.back().end < least_gap)
      pieces_.back().end = r + 1;
    else
      pieces_.push_back({r, r + 1});
  }
  count_ = count_rows(pieces_);
}

at::Tensor LiveRows::gather(const at::Tensor& t) const {
  if (all()) return t;
  at::Tensor to = at::empty({count_, t.size(1)}, t.options());
  const std::int64_t width = t.size(1);
  const float* const in = data(t);
  float* const out = mutable_data(to);
  over_pieces(pieces_, grain(width), [&](RowPiece piece, std::int64_t before) {
    std::copy_n(in + piece.begin * width, (piece.end - piece.begin) * width, out + before * width);
  });
  return to;
}

std::vector<std::int64_t> LiveRows::starts(std::int64_t size) const {
  std::vector<std::int64_t> starts;
  std::int64_t before = 0;
  auto piece = pieces_.begin();
  for (std::int64_t row = 0; row < rows_; row += size) {
    for (; piece != pieces_.end() && piece->end <= row; ++piece) before += piece->end - piece->begin;
    starts.push_back(before + (piece != pieces_.end() && piece->begin < row ? row - piece->begin : 0));
  }
  starts.push_back(count_);
  return starts;
}

void LiveRows::clear_others(at::Tensor& t) const {
  const std::int64_t width = t.size(1);
  float* const p = mutable_data(t);
  std::vector<RowPiece> others;
  std::int64_t from = 0;
  for (const RowPiece& piece : pieces_) {
    others.push_back({from, piece.begin});
    from = piece.end;
  }
  others.push_back({from, rows_});
  over_pieces(others, grain(width), [&](RowPiece piece, std::int64_t) { std::fill(p + piece.begin * width, p + piece.end * width, 0.f); });
}

}  // namespace assay::train
