#include "trainer/grpo/update.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <string>
#include <tuple>

#include "experiments/spec/canonical.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/loss.h"
#include "trainer/grpo/stop.h"
#include "trainer/profile/profile.h"

namespace assay::train {
namespace {

struct Range {  // prompts [begin, end) of the batch
  std::int64_t begin, end;
};

std::vector<Range> split(Range whole, std::int64_t size) {
  if (size <= 0) return {whole};
  std::vector<Range> parts;
  for (auto at = whole.begin; at < whole.end; at += size) parts.push_back({at, std::min(at + size, whole.end)});
  return parts;
}

template <class T>
std::vector<T> slice(const std::vector<T>& values, std::int64_t begin, std::int64_t end) {
  return {values.begin() + begin, values.begin() + end};
}

// Micro-batches: rows of a few prompts as tensors, B rows of R tokens.
class BatchRows {
 public:
  BatchRows(Session& session, const Batch& batch) : session_(session), batch_(batch) {}

  TokenLogprobs logprobs(Range span) const {
    return token_logprobs(*session_.decoder, slice(batch_.prompts, span.begin, span.end),
                          slice(batch_.rollout.responses, span.begin * group(), span.end * group()), group(),
                          session_.config.rollout.temperature);
  }
  at::Tensor advantages(Range span) const {
    const auto values = slice(batch_.advantages, span.begin * group(), span.end * group());
    return at::tensor(at::ArrayRef<double>(values), at::kDouble).to(at::kFloat);
  }
  // The sampler's own log-probs, [B, R]; 0 on the padding.
  at::Tensor sampled_logprobs(Range span, std::int64_t width) const {
    auto padded = at::zeros({(span.end - span.begin) * group(), width}, at::kFloat);
    auto rows = padded.accessor<float, 2>();
    for (std::int64_t r = 0; r < rows.size(0); ++r) {
      const auto& row = batch_.rollout.logprobs[static_cast<std::size_t>(span.begin * group() + r)];
      for (std::int64_t t = 0; t < static_cast<std::int64_t>(row.size()); ++t) rows[r][t] = row[static_cast<std::size_t>(t)];
    }
    return padded;
  }
  std::int64_t longest(Range span) const {
    std::size_t length = 0;
    for (auto r = span.begin * group(); r < span.end * group(); ++r)
      length = std::max(length, batch_.rollout.responses[static_cast<std::size_t>(r)].size());
    return static_cast<std::int64_t>(length);
  }
  LossScale scale(Range span) const {
    LossScale scale;
    for (auto r = span.begin * group(); r < span.end * group(); ++r) {
      const auto length = batch_.rollout.responses[static_cast<std::size_t>(r)].size();
      scale.tokens += static_cast<double>(length);
      scale.sequences += length > 0;
    }
    return scale;
  }

 private:
  std::int64_t group() const { return session_.config.rollout.samples_per_prompt; }
  Session& session_;
  const Batch& batch_;
};

// How far the training forward's log-probs are from the sampler's. With d = training - sampled:
// kl = mean(-d), k3 = mean(exp(d) - 1 - d), both estimates of KL(sampler || trainer); and the share of tokens that
// clipping would act on before anything was learned, had the sampler's log-probs been taken as the old ones.
class Gap {
 public:
  explicit Gap(const LossOptions& options) : options_(options) {}
  void add(const at::Tensor& trained, const at::Tensor& sampled, const at::Tensor& mask) {
    const auto on = mask > 0;
    const auto sum = [&](const at::Tensor& values) { return at::where(on, values, 0.0).sum().item<double>(); };
    const auto d = (trained - sampled).to(at::kDouble).clamp(-20, 20);
    const auto probability = (trained.to(at::kDouble).exp() - sampled.to(at::kDouble).exp()).abs();
    kl_ += sum(-d);
    k3_ += sum(d.exp() - 1 - d);
    probability_ += sum(probability);
    const auto ratio = d.exp();
    outside_ += sum((ratio < 1 - options_.clip_low).logical_or(ratio > 1 + options_.clip_high).to(at::kDouble));
    largest_ = std::max(largest_, at::where(on, probability, 0.0).max().item<double>());
    tokens_ += on.sum().item<double>();
  }
  double largest() const { return largest_; }
  double tokens() const { return tokens_; }
  void reduce(Ranks& ranks) {
    double sums[] = {kl_, k3_, probability_, outside_, tokens_};
    ranks.sum(sums, std::size(sums));
    std::tie(kl_, k3_, probability_, outside_, tokens_) = std::tie(sums[0], sums[1], sums[2], sums[3], sums[4]);
    ranks.max(&largest_, 1);
  }
  void report(Metrics& metrics) const {
    if (tokens_ == 0) return;
    metrics["rollout_corr/kl"] = kl_ / tokens_;
    metrics["rollout_corr/k3_kl"] = k3_ / tokens_;
    metrics["rollout_corr/ratio_outside_clip"] = outside_ / tokens_;
    metrics["training/rollout_probs_diff_mean"] = probability_ / tokens_;
    metrics["training/rollout_probs_diff_max"] = largest_;
  }

 private:
  LossOptions options_;
  double kl_ = 0, k3_ = 0, probability_ = 0, outside_ = 0, largest_ = 0, tokens_ = 0;
};

// The gradients of all ranks, summed. A tensor that no rank has a gradient for stays without.
void sum_gradients(Ranks& ranks, const std::vector<NamedTensor>& parameters) {
  if (ranks.size() == 1) return;
  const at::NoGradGuard no_grad;
  std::vector<double> there;
  for (const auto& parameter : parameters) there.push_back(parameter.tensor.grad().defined() ? 1 : 0);
  ranks.max(there.data(), static_cast<std::int64_t>(there.size()));
  std::vector<at::Tensor> parts;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (there[i] == 0) continue;
    const at::Tensor& gradient = parameters[i].tensor.grad();
    parts.push_back((gradient.defined() ? gradient : at::zeros_like(parameters[i].tensor)).reshape({-1}));
  }
  if (parts.empty()) return;
  at::Tensor flat = at::cat(parts).contiguous();
  ranks.sum(flat.mutable_data_ptr<float>(), flat.numel());
  std::int64_t at = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (there[i] == 0) continue;
    at::Tensor tensor = parameters[i].tensor;
    tensor.mutable_grad() = flat.narrow(0, at, tensor.numel()).view(tensor.sizes()).clone();
    at += tensor.numel();
  }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

UpdateResult update_policy(Session& session, Optimizer& optimizer, const Batch& batch, std::int64_t step) {
  const auto& grpo = session.config.grpo;
  const LossOptions options = LossOptions::from(session.config);
  const double lr = learning_rate(session.config.optimizer, step);
  const BatchRows rows(session, batch);
  UpdateResult result;
  result.covered.assign(optimizer.parameters().size(), false);

  Ranks& ranks = *session.ranks;
  std::vector<Range> whole;                       // the mini-batches
  std::vector<std::vector<Range>> mini_batches;   // this rank's micro-batches of each
  if (batch.prompt_count() > 0)
    for (const Range mini : split({0, batch.prompt_count()}, grpo.mini_batch_size)) {
      const auto [first, last] = ranks.share(mini.end - mini.begin);
      whole.push_back(mini);
      mini_batches.push_back(first == last ? std::vector<Range>{}
                                           : split({mini.begin + first, mini.begin + last}, grpo.micro_batch_size));
    }

  session.decoder->set_phase(Phase::training);
  Gap gap(options);
  // The old log-probs of the mini-batches behind the first, from before the first update.
  std::vector<std::vector<at::Tensor>> old(mini_batches.size());
  const auto remember = [&] {
    const Span span("old log-probs");
    const auto started = std::chrono::steady_clock::now();
    const at::NoGradGuard no_grad;
    double largest = gap.tokens() > 0 ? gap.largest() : 0, tokens = gap.tokens();
    ranks.max(&largest, 1);
    ranks.max(&tokens, 1);
    const bool same = spec::batch_invariant(session.config) && tokens > 0 && largest == 0;
    for (std::size_t m = 1; m < mini_batches.size(); ++m)
      for (const Range micro : mini_batches[m]) {
        check_stop();
        old[m].push_back(same ? rows.sampled_logprobs(micro, rows.longest(micro)) : rows.logprobs(micro).logprobs);
      }
    result.metrics["timing_s/old_log_prob"] = seconds_since(started);
  };

  double loss_sum = 0, norm_sum = 0, largest_norm = 0, tokens = 0, kl = 0, clipped = 0, clipped_lower = 0, entropy = 0;
  double first_ratio = 0, first_deviation = 0;
  for (std::size_t m = 0; m < mini_batches.size(); ++m) {
    const auto& micros = mini_batches[m];
    const LossScale scale = rows.scale(whole[m]);
    optimizer.zero_grad();
    double loss = 0, ratio = 0, deviation = 0;
    bool graph = false;
    for (std::size_t i = 0; i < micros.size(); ++i) {
      check_stop();
      const TokenLogprobs now = [&] {
        const Span span("forward");
        return rows.logprobs(micros[i]);
      }();
      const at::Tensor before = m == 0 ? now.logprobs.detach() : old[m][i];
      const PolicyLoss part = policy_loss(now.logprobs, before, rows.advantages(micros[i]), now.mask, options, scale);
      loss += part.loss.item<double>();
      kl += part.kl;
      clipped += part.clipped;
      clipped_lower += part.clipped_lower;
      ratio += part.ratio;
      deviation = std::max(deviation, part.ratio_deviation);
      entropy += at::where(now.mask > 0, now.entropy.to(at::kDouble), 0.0).sum().item<double>();
      gap.add(before, rows.sampled_logprobs(micros[i], now.mask.size(1)), now.mask);
      if (!std::isfinite(loss)) break;
      if (part.loss.requires_grad()) {
        const Span span("backward");
        part.loss.backward();
        graph = true;
      }
    }
    if (m == 0) remember();
    double sums[] = {loss, ratio, graph ? 1.0 : 0.0};
    ranks.sum(sums, std::size(sums));
    loss = sums[0], ratio = sums[1], graph = sums[2] > 0;
    ranks.max(&deviation, 1);
    if (!std::isfinite(loss)) throw NonFinite("the loss is not finite");
    sum_gradients(ranks, optimizer.parameters());
    const Span span("optimizer");
    const Gradients gradients = optimizer.gradients();
    if (!gradients.finite) throw NonFinite("a gradient is not finite");
    if (graph) {
      optimizer.step(lr, gradients.norm);
      ++result.updates;
    } else {
      ++result.without_graph;
    }
    for (std::size_t i = 0; i < result.covered.size(); ++i)
      result.covered[i] = result.covered[i] || gradients.non_zero[i];
    if (m == 0) {
      first_ratio = ratio / scale.tokens;
      first_deviation = deviation;
    }
    loss_sum += loss;
    norm_sum += gradients.norm;
    largest_norm = std::max(largest_norm, gradients.norm);
    tokens += scale.tokens;
  }
  optimizer.zero_grad();
  double sums[] = {kl, clipped, clipped_lower, entropy};
  ranks.sum(sums, std::size(sums));
  std::tie(kl, clipped, clipped_lower, entropy) = std::tie(sums[0], sums[1], sums[2], sums[3]);
  gap.reduce(ranks);

  auto& metrics = result.metrics;
  const auto minis = static_cast<double>(result.updates + result.without_graph);
  if (minis > 0) {
    metrics["actor/pg_loss"] = loss_sum / minis;
    metrics["actor/grad_norm"] = norm_sum / minis;
    metrics["actor/grad_norm_max"] = largest_norm;
    metrics["actor/ppo_kl"] = kl / tokens;
    metrics["actor/pg_clipfrac"] = clipped / tokens;
    metrics["actor/pg_clipfrac_lower"] = clipped_lower / tokens;
    metrics["actor/entropy"] = entropy / tokens;
    metrics["actor/first_ratio_mean"] = first_ratio;
    metrics["actor/first_ratio_max_deviation"] = first_deviation;
    gap.report(metrics);
  } else {
    metrics["actor/grad_norm"] = 0;
  }
  metrics["actor/lr"] = lr;
  metrics["actor/updates"] = static_cast<double>(result.updates);
  metrics["actor/no_gradient_updates"] = static_cast<double>(result.without_graph);
  metrics["actor/grad_tensors"] = static_cast<double>(std::count(result.covered.begin(), result.covered.end(), true));
  metrics["actor/adapter_tensors"] = static_cast<double>(result.covered.size());
  return result;
}

}  // namespace assay::train
