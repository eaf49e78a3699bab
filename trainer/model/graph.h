// What the hand-written backwards share.
#pragma once

#include <torch/autograd.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/types.h>

#include <memory>
#include <utility>

namespace assay::train {

inline bool wants_graph(const at::Tensor& t) { return t.defined() && t.requires_grad(); }

template <class... T>
bool any_wants_graph(const T&... tensors) {
  return at::GradMode::is_enabled() && (wants_graph(tensors) || ...);
}

// Makes a node whose inputs are `inputs`, in this order, and hangs it behind `output`.
template <class Node, class... T>
std::shared_ptr<Node> hang(at::Tensor& output, std::shared_ptr<Node> node, const T&... inputs) {
  node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
  torch::autograd::set_history(output, node);
  return node;
}

template <class Node>
std::shared_ptr<Node> new_node() {
  return std::shared_ptr<Node>(new Node(), torch::autograd::deleteNode);
}

// float32, contiguous; programmer error otherwise.
inline const float* data(const at::Tensor& t) {
  TORCH_INTERNAL_ASSERT(t.scalar_type() == at::kFloat && t.is_contiguous() && t.device().is_cpu());
  return t.const_data_ptr<float>();
}
inline float* mutable_data(at::Tensor& t) {
  TORCH_INTERNAL_ASSERT(t.scalar_type() == at::kFloat && t.is_contiguous());
  return t.mutable_data_ptr<float>();
}

}  // namespace assay::train
