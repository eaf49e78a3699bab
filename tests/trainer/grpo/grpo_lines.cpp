// For tests/parity/grpo: the trainer's formulas behind JSON lines, one answer a line.
//   {"op": "advantages", "rewards": [...], "group": G, "kind": "std"} -> {"advantages": [...]}
//   {"op": "loss", "logprobs": [[...]], "old": [[...]], "advantages": [...], "mask": [[...]], "low", "high", "c", "agg",
//    "horizon", "micro": rows, "dtype": "float64", "kl_coef", "kl_type", "reference": [[...]], "entropy_coef",
//    "entropy": [[...]], "cap", "sampled": [[...]]} -> {"loss", "policy", "kl_loss", "gradient": [[...]],
//    "entropy_gradient": [[...]], "kl", "clipped", "clipped_lower"}; what follows "micro" may be left out
//   {"op": "update", "model": DIR, "adapter": DIR, "rank", "alpha", "targets": [...], "prompts": [[ids]],
//    "responses": [[ids]], "group": G, "temperature", the rest as for "loss"; old and reference null: own and base's;
//    "quant": {"format", "mode", "hook", "blocking", "tensor_scale", "ste", "exclude"} or absent}
//    -> {"loss", "logprobs": [[...]], "entropy": [[...]], "gradients": {name: [...], or null: none arrived}}
//   {"op": "schedule", "lr", "schedule", "warmup_steps", "min_lr_ratio", "steps"} -> {"rates": [...]}
//   {"op": "adamw", "parameter": [...], "gradients": [[...], ...], "lr", "betas", "eps", "weight_decay", "grad_clip"}
//    -> {"parameter": [...], "norms": [...]}
#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/advantage.h"
#include "trainer/grpo/loss.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/rollout_gap.h"
#include "trainer/rollout/sampler.h"

using namespace assay;
using nlohmann::json;

namespace {

at::Tensor vector(const json& values) { return at::tensor(values.get<std::vector<float>>()); }

std::vector<float> floats(const at::Tensor& tensor) {
  const auto flat = tensor.contiguous().view({-1});
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

// Rows of numbers, read as float64 and rounded to `type`.
at::Tensor rows_as(const json& rows, at::ScalarType type) {
  std::vector<at::Tensor> parts;
  for (const auto& row : rows) parts.push_back(at::tensor(row.get<std::vector<double>>(), at::kDouble));
  return at::stack(parts).to(type);
}

json list(const at::Tensor& rows) {
  json result = json::array();
  const auto doubles = rows.detach().to(at::kDouble).contiguous();
  for (std::int64_t r = 0; r < doubles.size(0); ++r) {
    const auto* from = doubles.const_data_ptr<double>() + r * doubles.size(1);
    result.push_back(std::vector<double>(from, from + doubles.size(1)));
  }
  return result;
}

train::LossOptions options_of(const json& line) {
  train::LossOptions options;
  options.clip_low = line["low"];
  options.clip_high = line["high"];
  options.clip_c = line["c"];
  options.aggregation = train::parse_aggregation(line["agg"].get<std::string>());
  options.horizon = line["horizon"];
  options.kl_coef = line.value("kl_coef", 0.0);
  options.kl_type = train::parse_kl_type(line.value("kl_type", "k3"));
  options.entropy_coef = line.value("entropy_coef", 0.0);
  options.importance_weights = line.contains("cap");
  options.weight_cap = line.value("cap", 2.0);
  return options;
}

json loss(const json& line) {
  const auto type = line.value("dtype", "float32") == "float64" ? at::kDouble : at::kFloat;
  auto logprobs = rows_as(line["logprobs"], type).requires_grad_(true);
  const auto old = rows_as(line["old"], type), mask = rows_as(line["mask"], type),
             advantages = rows_as(json::array({line["advantages"]}), type)[0];
  const auto options = options_of(line);
  at::Tensor reference, entropy, sampled;
  if (options.kl_coef > 0) reference = rows_as(line["reference"], type);
  if (options.entropy_coef > 0) entropy = rows_as(line["entropy"], type).requires_grad_(true);
  if (options.importance_weights) sampled = rows_as(line["sampled"], type);
  const train::LossScale scale{mask.sum().item<double>(), (mask.sum(1) > 0).sum().item<double>()};
  double total = 0, policy = 0, kl_loss = 0, kl = 0, clipped = 0, lower = 0;
  const std::int64_t rows = mask.size(0), micro = line["micro"];
  for (std::int64_t at = 0; at < rows; at += micro) {
    const auto end = std::min(at + micro, rows);
    train::LossInputs more;
    if (reference.defined()) more.reference = reference.slice(0, at, end);
    if (entropy.defined()) more.entropy = entropy.slice(0, at, end);
    if (sampled.defined())
      more.weights = train::importance_weights(old.slice(0, at, end), sampled.slice(0, at, end), options.weight_cap);
    const auto part = train::policy_loss(logprobs.slice(0, at, end), old.slice(0, at, end), advantages.slice(0, at, end),
                                         mask.slice(0, at, end), options, scale, more);
    part.loss.backward();
    total += part.loss.item<double>();
    policy += part.policy;
    kl_loss += part.kl_loss;
    kl += part.kl;
    clipped += part.clipped;
    lower += part.clipped_lower;
  }
  json result{{"loss", total},
              {"policy", policy},
              {"kl_loss", kl_loss},
              {"gradient", list(logprobs.grad())},
              {"kl", kl / scale.tokens},
              {"clipped", clipped / scale.tokens},
              {"clipped_lower", lower / scale.tokens}};
  if (entropy.defined()) result["entropy_gradient"] = list(entropy.grad());
  return result;
}

spec::QuantConfig quant_of(const json& line) {
  spec::QuantConfig quant;
  quant.format = line["format"];
  quant.mode = line["mode"];
  quant.hook = line["hook"];
  quant.blocking = line["blocking"];
  quant.tensor_scale = line["tensor_scale"];
  quant.ste = line["ste"];
  quant.exclude = line["exclude"].get<std::vector<std::string>>();
  return quant;
}

using Ids = std::vector<std::vector<std::int32_t>>;

// One update's loss and adapter gradients, as trainer/grpo/update.cpp computes them.
json update(const json& line) {
  auto decoder = train::Decoder::load(line["model"].get<std::string>());
  spec::LoraConfig lora;
  lora.rank = line["rank"];
  lora.alpha = line["alpha"];
  lora.targets = line["targets"].get<std::vector<std::string>>();
  decoder.attach_lora(lora, 1);
  train::read_adapter(line["adapter"].get<std::string>(), decoder.adapter());
  if (line.contains("quant")) decoder.attach_quantizers(quant_of(line["quant"]));
  const auto options = options_of(line);
  const auto prompts = line["prompts"].get<Ids>(), responses = line["responses"].get<Ids>();
  const auto logprobs_of = [&](bool entropy_gradient) {
    return train::token_logprobs(decoder, prompts, responses, line["group"], line["temperature"], entropy_gradient);
  };
  train::LossInputs more;
  if (options.kl_coef > 0) {
    const at::NoGradGuard no_grad;
    decoder.set_adapter(false);
    more.reference = logprobs_of(false).logprobs;
    decoder.set_adapter(true);
  }
  const auto now = logprobs_of(options.entropy_coef > 0);
  if (options.entropy_coef > 0) more.entropy = now.entropy;
  const auto old = line["old"].is_null() ? now.logprobs.detach() : rows_as(line["old"], at::kFloat);
  if (options.importance_weights)
    more.weights = train::importance_weights(old, rows_as(line["sampled"], at::kFloat), options.weight_cap);
  const auto& mask = now.mask;
  const train::LossScale scale{mask.sum().item<double>(), (mask.sum(1) > 0).sum().item<double>()};
  const auto result = train::policy_loss(now.logprobs, old, vector(line["advantages"]), mask, options, scale, more);
  if (result.loss.requires_grad()) result.loss.backward();
  json gradients = json::object();
  for (const auto& tensor : decoder.adapter()) {
    json& gradient = gradients[tensor.name];
    if (tensor.tensor.grad().defined()) gradient = floats(tensor.tensor.grad());
  }
  return {{"loss", result.loss.item<double>()}, {"logprobs", list(now.logprobs)}, {"entropy", list(now.entropy)},
          {"gradients", gradients}};
}

json schedule(const json& line) {
  spec::OptimizerConfig config;
  config.lr = line["lr"];
  config.schedule = line["schedule"];
  config.warmup_steps = line["warmup_steps"];
  config.min_lr_ratio = line["min_lr_ratio"];
  json rates = json::array();
  for (std::int64_t step = 1; step <= line["steps"]; ++step)
    rates.push_back(train::learning_rate(config, step, line["steps"]));
  return {{"rates", rates}};
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
  if (op == "update") return update(line);
  if (op == "schedule") return schedule(line);
  if (op == "adamw") return adamw(line);
  return {{"advantages", train::group_advantages(line["rewards"].get<std::vector<double>>(), line["group"],
                                                 train::parse_advantage(line["kind"].get<std::string>()))}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) std::cout << answer(json::parse(line)).dump() << std::endl;
}
