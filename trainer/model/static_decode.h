// Decoding by LibTorch's operations in tensors of fixed shapes and places, so that one token's work is the same list of
// device operations each time and can be captured in a graph (accelerator.h).
//
// Dimensions: P prompts of G rows each, R = P * G rows, S longest prompt, C capacity (new tokens), K key/value heads, E head
// size, D hidden size. Row p * G + i is prompt p's. Rows that have ended go on being computed until keep() drops them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/model.h"

namespace assay::train {

class StaticDecode {
 public:
  // Weights and adapter must not change while it lives.
  StaticDecode(Model& model, const PromptCache& prompts, std::int64_t rows_per_prompt, std::int64_t max_new);

  // One more token: ids int64 [R]. ended, bool [R, 1]: rows that are computed along and left out of an activation's tensor
  // scale. Writes hidden() and steps() in place; waits for nothing, and does the same work at each call.
  void step(const at::Tensor& ids, const at::Tensor& ended);
  // Keeps some prompts, and of each the same number of rows: rows int64 [P' * G'] on the CPU, as numbers of present rows,
  // those of a prompt beside each other. A row may be named twice, so that all prompts have as many.
  void keep(const std::vector<std::int64_t>& prompts, const std::vector<std::int64_t>& rows);

  std::int64_t prompts() const { return prompts_; }
  std::int64_t rows_per_prompt() const { return rows_per_prompt_; }
  std::int64_t rows() const { return prompts_ * rows_per_prompt_; }
  const at::Tensor& hidden() const { return hidden_; }  // [R, D], behind the final norm: what the next token is drawn from
  const at::Tensor& steps() const { return steps_; }    // int64 [1]: tokens taken so far

 private:
  struct Cache {
    at::Tensor prompt_keys, prompt_values;  // [P, K, S, E]
    at::Tensor keys, values;                // [R, K, C, E]
  };
  at::Tensor attend(Cache& cache, const Model::Queries& now, const at::Tensor& own_off) const;

  Model& model_;
  std::int64_t prompts_, rows_per_prompt_, capacity_, longest_ = 0;
  std::vector<Cache> layers_;
  at::Tensor before_;      // int64 [R]: tokens of the row's prompt
  at::Tensor prompt_off_;  // bool [P, 1, 1, 1, S]: no key there
  at::Tensor places_;      // int64 [C]: 0, 1, …
  at::Tensor hidden_, steps_;
};

}  // namespace assay::train
