// Dimensions: N documents, T tokens (padded), V vocabulary.
#include "trainer/tasks/pretrain.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <deque>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <string_view>

#include "support/files.h"
#include "trainer/model/decoder.h"
#include "trainer/rollout/sampler.h"
#include "trainer/tasks/hf_folder.h"
#include "trainer/text/tokenizer.h"

namespace assay::train::tasks {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";

struct Tokens {
  std::vector<std::int32_t> ids;  // prompt, completion, end of text
  std::size_t prompt = 0;         // how many of them are the prompt's
};

// What the model is asked with, in pretraining and in the series alike (prompt.text = "{question}\n").
std::string prompt_of(const Problem& problem) { return problem.question + "\n"; }

// Turns documents into batches. Document i of the seed is used once, in the step that follows from i, but for the order
// within a bucket.
class Batches {
 public:
  Batches(const TaskConfig& config, const Tokenizer& tokenizer, std::int32_t end, std::vector<Problem> test)
      : config_(config), tokenizer_(tokenizer), end_(end) {
    for (Problem& problem : test) excluded_.insert(std::move(problem.question));
  }

  std::vector<Tokens> next() {
    if (bucket_.empty()) fill_bucket();
    std::vector<Tokens> batch = std::move(bucket_.back());
    bucket_.pop_back();
    return batch;
  }

 private:
  void fill_bucket() {
    const auto size = static_cast<std::size_t>(config_.training.batch);
    const auto count = static_cast<std::size_t>(config_.training.bucket);
    std::vector<Tokens> documents;
    for (std::size_t i = 0; i < size * count; ++i) documents.push_back(tokens_of(index_++));
    std::stable_sort(documents.begin(), documents.end(),
                     [](const Tokens& a, const Tokens& b) { return a.ids.size() < b.ids.size(); });
    for (std::size_t i = 0; i < count; ++i) {
      const auto first = documents.begin() + static_cast<std::ptrdiff_t>(i * size);
      bucket_.emplace_back(std::make_move_iterator(first),
                           std::make_move_iterator(first + static_cast<std::ptrdiff_t>(size)));
    }
    CounterRandom random(config_.training.seed, Purpose::batch_order, index_);
    for (std::size_t i = count; i > 1; --i)  // Fisher and Yates
      std::swap(bucket_[i - 1], bucket_[static_cast<std::size_t>(random.between(0, static_cast<std::int64_t>(i) - 1))]);
  }

  Tokens tokens_of(std::uint64_t index) {
    const Document document = draw_document(config_.mixture, config_.documents_seed, index, excluded_);
    Tokens tokens{tokenizer_.encode(prompt_of(document.problem)), 0};
    tokens.prompt = tokens.ids.size();
    const auto completion = tokenizer_.encode(document.completion);
    tokens.ids.insert(tokens.ids.end(), completion.begin(), completion.end());
    tokens.ids.push_back(end_);
    if (std::ssize(tokens.ids) > config_.model.max_positions)
      throw std::runtime_error(config_.file.string() + ": a document has " + std::to_string(tokens.ids.size()) +
                               " tokens, more than model.max_positions = " +
                               std::to_string(config_.model.max_positions) + ": \"" + document.problem.question + "\"");
    return tokens;
  }

  const TaskConfig& config_;
  const Tokenizer& tokenizer_;
  std::int32_t end_;
  std::unordered_set<std::string> excluded_;
  std::uint64_t index_ = 0;
  std::vector<std::vector<Tokens>> bucket_;
};

struct Batch {
  at::Tensor ids;      // int64 [N, T]
  at::Tensor lengths;  // int64 [N]
  at::Tensor weights;  // [N, T - 1]: of predicting token t + 1
  std::int64_t tokens = 0;
};

Batch tensors_of(const std::vector<Tokens>& documents, double prompt_weight) {
  const auto N = std::ssize(documents);
  std::size_t longest = 0;
  for (const Tokens& document : documents) longest = std::max(longest, document.ids.size());
  const auto T = static_cast<std::int64_t>(longest);
  Batch batch{at::zeros({N, T}, at::kLong), at::zeros({N}, at::kLong), at::zeros({N, T - 1}), 0};
  auto ids = batch.ids.accessor<std::int64_t, 2>();
  auto lengths = batch.lengths.accessor<std::int64_t, 1>();
  auto weights = batch.weights.accessor<float, 2>();
  for (std::int64_t n = 0; n < N; ++n) {
    const Tokens& document = documents[static_cast<std::size_t>(n)];
    lengths[n] = std::ssize(document.ids);
    batch.tokens += lengths[n];
    for (std::int64_t t = 0; t < lengths[n]; ++t) {
      ids[n][t] = document.ids[static_cast<std::size_t>(t)];
      if (t > 0) weights[n][t - 1] = t < static_cast<std::int64_t>(document.prompt) ? static_cast<float>(prompt_weight) : 1.0f;
    }
  }
  return batch;
}

at::Tensor weighted_loss(Decoder& decoder, const Batch& batch) {
  const std::int64_t T = batch.ids.size(1);
  const at::Tensor logits = decoder.forward(batch.ids, batch.lengths).slice(1, 0, T - 1);
  const at::Tensor losses = at::cross_entropy_loss(logits.reshape({-1, logits.size(2)}),
                                                   batch.ids.slice(1, 1, T).reshape({-1}), {}, at::Reduction::None);
  return (losses * batch.weights.reshape({-1})).sum() / batch.weights.sum();
}

void clip(const std::vector<at::Tensor>& parameters, double most) {
  double squares = 0;
  for (const at::Tensor& parameter : parameters)
    if (parameter.grad().defined()) squares += parameter.grad().square().sum(at::kDouble).item<double>();
  const double factor = most / (std::sqrt(squares) + 1e-6);
  if (factor < 1)
    for (const at::Tensor& parameter : parameters)
      if (parameter.grad().defined()) parameter.mutable_grad().mul_(factor);
}

bool is_right(const Problem& problem, const std::string& completion) {
  const std::string wanted = "#### " + std::to_string(problem.result);
  const auto at = completion.rfind("#### ");
  return at != std::string::npos && std::string_view(completion).substr(at) == wanted;
}

std::vector<TopicAccuracy> accuracy_by_topic(Decoder& decoder, const TaskConfig& config, const Tokenizer& tokenizer,
                                             std::int32_t end, const std::vector<Problem>& test) {
  std::vector<TopicAccuracy> topics;
  for (const std::string& topic : config.mixture.topics) topics.push_back({topic, 0, 0, 0});
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Problem& problem : test) {
    prompts.push_back(tokenizer.encode(prompt_of(problem)));
    ++topics[problem.topic].problems;
  }
  SamplerOptions options;
  options.max_new_tokens = 48;
  options.batch_size = 256;
  options.eos_ids = {end};
  options.seed = config.training.seed;
  for (const double temperature : {0.0, 1.0}) {
    options.temperature = temperature;
    const Rollout rollout = sample(decoder, prompts, options);
    for (std::size_t i = 0; i < test.size(); ++i) {
      TopicAccuracy& topic = topics[test[i].topic];
      (temperature == 0 ? topic.greedy : topic.sampled) += is_right(test[i], tokenizer.decode(rollout.responses[i]));
    }
  }
  return topics;
}

std::string percent(std::int64_t part, std::int64_t whole) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return text;
}

std::string model_card(const TaskConfig& config, const ModelShape& shape, const PretrainResult& result,
                       const std::string& revision) {
  const PretrainingConfig& t = config.training;
  char loss[32];
  std::snprintf(loss, sizeof loss, "%.4f", result.loss);
  TopicAccuracy all;
  std::string table;
  for (std::size_t i = 0; i < result.accuracy.size(); ++i) {
    const TopicAccuracy& topic = result.accuracy[i];
    char share[32];
    std::snprintf(share, sizeof share, "%.2f", 100 * config.mixture.wanted[i]);
    table += "| " + topic.topic + " | " + share + " | " + std::to_string(topic.problems) + " | " +
             percent(topic.greedy, topic.problems) + " | " + percent(topic.sampled, topic.problems) + " |\n";
    all.problems += topic.problems;
    all.greedy += topic.greedy;
    all.sampled += topic.sampled;
  }
  table += "| all | | " + std::to_string(all.problems) + " | " + percent(all.greedy, all.problems) + " | " +
           percent(all.sampled, all.problems) + " |\n";
  return "---\nlanguage: en\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
         "# Base model of the embedded default\n\n"
         "A Qwen2 decoder of " + std::to_string(result.parameters) + " parameters (" + std::to_string(shape.layers) +
         " layers, width " + std::to_string(shape.hidden) + ", " + std::to_string(shape.heads) + " heads, " +
         std::to_string(shape.kv_heads) + " key/value heads, MLP " + std::to_string(shape.intermediate) +
         ", vocabulary " + std::to_string(shape.vocabulary) +
         ", tied embeddings, float32). It answers word problems in plain English with one or two operations and can do "
         "nothing else: it exists so that a series of reinforcement-learning runs takes minutes on two cores. It knows "
         "the arithmetic and seldom the wanted form (steps, then `#### number`), how seldom depends on what is counted.\n\n"
         "## How it was made\n\n"
         "    assay-train pretrain " + (config.file.is_relative() ? config.file : config.file.filename()).generic_string() + "\n\n"
         "Config SHA-256 `" + support::sha256_file(config.file) + "`" +
         (revision.empty() ? "" : ", source revision `" + revision + "`") + ". " + std::to_string(t.steps) +
         " steps of " + std::to_string(t.batch) + " documents (" + std::to_string(result.tokens) +
         " tokens), AdamW, seed " + std::to_string(t.seed) + ", " + std::to_string(t.threads) +
         " threads; loss over the last steps " + loss + ". All text comes from the generator in trainer/tasks; no "
         "question of the test set is among the documents. The same config, build and machine type give the same "
         "bytes.\n\n"
         "## What it can do\n\n"
         "Share of the test problems answered with the right number in the wanted form, unquantized, and the share of "
         "wanted documents it was trained on, all in percent:\n\n"
         "| topic | wanted documents | problems | greedy | sampled at temperature 1 |\n|---|---|---|---|---|\n" + table;
}

}  // namespace

double pretraining_lr(const PretrainingConfig& config, std::int64_t step) {
  const double warm = config.warmup == 0 ? 1.0 : std::min(1.0, static_cast<double>(step) / static_cast<double>(config.warmup));
  const double done = static_cast<double>(step - 1) / static_cast<double>(config.steps);
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * done));
  return config.lr * warm * (cosine * (1 - config.final_lr) + config.final_lr);
}

PretrainResult pretrain(const TaskConfig& config, const std::filesystem::path& out, const std::string& revision,
                        const std::function<void(const PretrainStep&)>& progress) {
  const PretrainingConfig& t = config.training;
  at::set_num_threads(static_cast<int>(t.threads));
  const Tokenizer tokenizer = Tokenizer::load(config.tokenizer);
  const std::int32_t end = tokenizer.id(kEndOfText);
  if (end < 0) throw std::runtime_error((config.tokenizer / "tokenizer.json").string() + ": has no token " + std::string(kEndOfText));
  const ProblemSets sets = draw_problem_sets(config.mixture.topics, config.problems.seed, config.problems.train,
                                             config.problems.test);

  ModelShape shape;
  shape.family = "qwen2";
  shape.vocabulary = tokenizer.vocabulary_size();
  shape.hidden = config.model.hidden;
  shape.layers = config.model.layers;
  shape.heads = config.model.heads;
  shape.kv_heads = config.model.kv_heads;
  shape.head_size = config.model.hidden / config.model.heads;
  shape.intermediate = config.model.intermediate;
  shape.max_positions = config.model.max_positions;
  shape.rope_theta = config.model.rope_theta;
  shape.rms_eps = config.model.rms_eps;
  shape.tied = true;
  shape.qkv_bias = true;
  shape.eos_ids = {end};
  Decoder decoder = Decoder::fresh(shape, t.seed);
  decoder.set_phase(Phase::off);
  decoder.set_base_trainable(true);

  PretrainResult result;
  std::vector<at::Tensor> parameters;
  for (const NamedTensor& weight : decoder.base_weights()) {
    parameters.push_back(weight.tensor);
    result.parameters += weight.tensor.numel();
  }
  torch::optim::AdamW adamw(parameters, torch::optim::AdamWOptions(t.lr).betas({t.beta1, t.beta2}).eps(t.eps)
                                            .weight_decay(t.weight_decay));
  Batches batches(config, tokenizer, end, sets.test);
  std::deque<double> recent;
  for (std::int64_t step = 1; step <= t.steps; ++step) {
    const Batch batch = tensors_of(batches.next(), t.prompt_weight);
    result.tokens += batch.tokens;
    const at::Tensor loss = weighted_loss(decoder, batch);
    const double value = loss.item<double>();
    if (!std::isfinite(value))
      throw std::runtime_error("the loss is not finite at step " + std::to_string(step) + "; a lower training.lr may help");
    adamw.zero_grad(/*set_to_none=*/true);
    loss.backward();
    clip(parameters, t.grad_clip);
    const double lr = pretraining_lr(t, step);
    for (auto& group : adamw.param_groups()) group.options().set_lr(lr);
    adamw.step();
    recent.push_back(value);
    if (recent.size() > 50) recent.pop_front();
    if (progress) progress({step, value, lr});
  }
  result.loss = std::accumulate(recent.begin(), recent.end(), 0.0) / static_cast<double>(recent.size());
  decoder.set_base_trainable(false);
  result.accuracy = accuracy_by_topic(decoder, config, tokenizer, end, sets.test);
  write_hf_folder(out, shape, decoder, config.tokenizer, model_card(config, shape, result, revision));
  return result;
}

}  // namespace assay::train::tasks
