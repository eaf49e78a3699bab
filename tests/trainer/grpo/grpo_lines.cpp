// For tests/parity/grpo: the trainer's formulas behind JSON lines, one answer a line.
//   {"op": "advantages", "rewards": [...], "group": G, "kind": "std"} -> {"advantages": [...]}
//   {"op": "loss", "logprobs": [[...]], "old": [[...]], "advantages": [...], "mask": [[...]], "low", "high", "c", "agg",
//    "horizon", "micro": rows} -> {"loss", "gradient": [[...]], "kl", "clipped", "clipped_lower"}
//   {"op": "adamw", "parameter": [...], "gradients": [[...], ...], "lr", "betas", "eps", "weight_decay", "grad_clip"}
//    -> {"parameter": [...], "norms": [...]}
#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "trainer/grpo/advantage.h"
#include "trainer/grpo/loss.h"
#include "trainer/grpo/optimizer.h"

using namespace assay;
using nlohmann::json;

namespace {

at::Tensor vector(const json& values) { return at::tensor(values.get<std::vector<float>>()); }

at::Tensor matrix(const json& rows) {
  std::vector<at::Tensor> parts;
  for (const auto& row : rows) parts.push_back(vector(row));
  return at::stack(parts);
}

std::vector<float> floats(const at::Tensor& tensor) {
  const auto flat = tensor.contiguous().view({-1});
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

json loss(const json& line) {
  auto logprobs = matrix(line["logprobs"]).requires_grad_(true);
  const auto old = matrix(line["old"]), mask = matrix(line["mask"]), advantages = vector(line["advantages"]);
  train::LossOptions options{line["low"], line["high"], line["c"], train::parse_aggregation(line["agg"].get<std::string>()),
                             line["horizon"]};
  const train::LossScale scale{mask.sum().item<double>(), (mask.sum(1) > 0).sum().item<double>()};
  double total = 0, kl = 0, clipped = 0, lower = 0;
  const std::int64_t rows = mask.size(0), micro = line["micro"];
  for (std::int64_t at = 0; at < rows; at += micro) {
    const auto end = std::min(at + micro, rows);
    const auto part = train::policy_loss(logprobs.slice(0, at, end), old.slice(0, at, end), advantages.slice(0, at, end),
                                         mask.slice(0, at, end), options, scale);
    part.loss.backward();
    total += part.loss.item<double>();
    kl += part.kl;
    clipped += part.clipped;
    lower += part.clipped_lower;
  }
  json gradient = json::array();
  for (std::int64_t r = 0; r < rows; ++r) gradient.push_back(floats(logprobs.grad()[r]));
  return {{"loss", total}, {"gradient", gradient}, {"kl", kl / scale.tokens}, {"clipped", clipped / scale.tokens},
          {"clipped_lower", lower / scale.tokens}};
}

json adamw(const json& line) {
  spec::OptimizerConfig config;
  config.lr = line["lr"];
  config.beta1 = line["betas"][0];
  config.beta2 = line["betas"][1];
  config.eps = line["eps"];
  config.weight_decay = line["weight_decay"];
  config.grad_clip = line["grad_clip"];
  train::Optimizer optimizer({{"p", vector(line["parameter"]).requires_grad_(true)}}, config);
  at::Tensor parameter = optimizer.parameters()[0].tensor;
  json norms = json::array();
  for (const auto& gradient : line["gradients"]) {
    optimizer.zero_grad();
    parameter.mutable_grad() = vector(gradient);
    const double norm = optimizer.gradients().norm;
    norms.push_back(norm);
    optimizer.step(config.lr, norm);
  }
  return {{"parameter", floats(parameter.detach())}, {"norms", norms}};
}

json answer(const json& line) {
  const auto op = line["op"].get<std::string>();
  if (op == "loss") return loss(line);
  if (op == "adamw") return adamw(line);
  return {{"advantages", train::group_advantages(line["rewards"].get<std::vector<double>>(), line["group"],
                                                 train::parse_advantage(line["kind"].get<std::string>()))}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) std::cout << answer(json::parse(line)).dump() << std::endl;
}
