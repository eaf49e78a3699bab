#include "trainer/model/live_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "trainer/model/graph.h"

namespace assay::train {

namespace {

// A gap of fewer rows is not worth a product's second beginning.
constexpr std::int64_t least_gap = 8;

}  // namespace

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
  for (std::int64_t r = 0; r < rows_; ++r) {
    if (all_zero(p + r * width, width)) continue;
    if (!pieces_.empty() && r - pieces_.back().end < least_gap)
      pieces_.back().end = r + 1;
    else
      pieces_.push_back({r, r + 1});
  }
  for (const Piece& piece : pieces_) count_ += piece.end - piece.begin;
}

at::Tensor LiveRows::gather(const at::Tensor& t) const {
  if (all()) return t;
  at::Tensor to = at::empty({count_, t.size(1)}, t.options());
  const std::int64_t width = t.size(1);
  float* out = mutable_data(to);
  for (const Piece& piece : pieces_) {
    const std::int64_t n = (piece.end - piece.begin) * width;
    std::copy_n(data(t) + piece.begin * width, n, out);
    out += n;
  }
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
  float* p = mutable_data(t);
  std::int64_t from = 0;
  const auto clear = [&](std::int64_t to) { std::fill(p + from * width, p + to * width, 0.f); };
  for (const Piece& piece : pieces_) {
    clear(piece.begin);
    from = piece.end;
  }
  clear(rows_);
}

}  // namespace assay::train
