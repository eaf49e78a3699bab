// Attention over packed rows that share their prompts' keys and values.
//
// A row's query at place t sees all keys of the row's prompt, then the row's own keys 0..t. Keys are laid out for the
// products with the prompt's part padded to a multiple of 16, in training and in decoding alike, so both sum in the
// same order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace assay::train {

struct PaddedLayout;

struct Heads {
  std::int64_t heads = 0, kv_heads = 0, size = 0;
  std::int64_t query_width() const { return heads * size; }
  std::int64_t key_width() const { return kv_heads * size; }
};

// Where rows lie among packed tokens: row i has tokens [start[i], start[i] + length[i]).
struct Layout {
  std::vector<std::int64_t> start, length;
  std::vector<std::int64_t> prompt;                       // per row; -1: no prompt
  std::vector<std::int64_t> prompt_start, prompt_length;  // per prompt
  std::vector<std::int64_t> order, group;  // order: rows, those of one prompt together; group g is order[group[g]..)
  std::shared_ptr<const std::vector<std::int32_t>> positions;  // per token
  std::int64_t tokens = 0, longest = 0;    // longest: positions needed
  mutable std::shared_ptr<const PaddedLayout> padded;  // aten.h's; made where the first layer asks for it

  // Rows without prompts.
  static std::shared_ptr<const Layout> of(const std::vector<std::int64_t>& lengths);
  // Rows behind prompts.
  static std::shared_ptr<const Layout> behind(const std::vector<std::int64_t>& prompt_start,
                                              const std::vector<std::int64_t>& prompt_length,
                                              const std::vector<std::int64_t>& prompt_of_row,
                                              const std::vector<std::int64_t>& lengths);
};

// q [M, H * E], k and v [M, K * E] after rotation; prompt_k, prompt_v [Mp, K * E], undefined where the layout has no
// prompts. Returns [M, H * E]. The backward computes the weights again from the log-sum-exp.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& prompt_k,
                     const at::Tensor& prompt_v, const std::shared_ptr<const Layout>& layout, const Heads& heads);

// to[e][t] = keys[t * stride + e] for t < count, zero up to `width` columns.
void transpose_keys(const float* keys, std::int64_t stride, std::int64_t count, std::int64_t e, float* to,
                    std::int64_t width);

}  // namespace assay::train
