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
#include "trainer/grpo/rollout_gap.h"
#include "trainer/grpo/seeds.h"
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
  BatchRows(Session& session, const Batch& batch, std::int64_t step) : session_(session), batch_(batch), step_(step) {}

  // Of a micro-batch, in seeds.
  std::uint64_t index(Range span) const {
    return (static_cast<std::uint64_t>(step_) << 20) + static_cast<std::uint64_t>(span.begin);
  }

  TokenLogprobs logprobs(Range span, bool entropy_gradient = false) const {
    return logprobs(*session_.decoder, span, entropy_gradient);
  }
  // Of the model as it was before training, under the quantization of training and without noise; no gradient.
  at::Tensor reference(Range span) const {
    const at::NoGradGuard no_grad;
    if (session_.reference) {
      session_.reference->set_phase(Phase::evaluation);
      return logprobs(*session_.reference, span, false).logprobs;
    }
    Decoder& decoder = *session_.decoder;
    const Phase before = decoder.phase();
    decoder.set_phase(Phase::evaluation);
    decoder.set_adapter(false);
    const at::Tensor values = logprobs(decoder, span, false).logprobs;
    decoder.set_adapter(true);
    decoder.set_phase(before);
    return values;
  }
  at::Tensor advantages(Range span) const {
    const auto values = slice(batch_.advantages, span.begin * group(), span.end * group());
    return at::tensor(at::ArrayRef<double>(values), at::kDouble).to(at::kFloat).to(session_.decoder->device());
  }
  // The sampler's own log-probs, [B, R]; 0 on the padding.
  at::Tensor sampled_logprobs(Range span, std::int64_t width) const {
    auto padded = at::zeros({(span.end - span.begin) * group(), width}, at::kFloat);
    auto rows = padded.accessor<float, 2>();
    for (std::int64_t r = 0; r < rows.size(0); ++r) {
      const auto& row = batch_.rollout.logprobs[static_cast<std::size_t>(span.begin * group() + r)];
      for (std::int64_t t = 0; t < static_cast<std::int64_t>(row.size()); ++t) rows[r][t] = row[static_cast<std::size_t>(t)];
    }
    return padded.to(session_.decoder->device());
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
  // A micro-batch's passes all round alike, so that old log-probs, references and ratios differ by the model alone.
  TokenLogprobs logprobs(Decoder& decoder, Range span, bool entropy_gradient) const {
    decoder.set_rounding_seed(derive_seed(static_cast<std::uint64_t>(session_.config.train.seed), index(span), Purpose::rounding));
    return token_logprobs(decoder, slice(batch_.prompts, span.begin, span.end),
                          slice(batch_.rollout.responses, span.begin * group(), span.end * group()), group(),
                          session_.config.rollout.temperature, entropy_gradient);
  }
  std::int64_t group() const { return session_.config.rollout.samples_per_prompt; }
  Session& session_;
  const Batch& batch_;
  std::int64_t step_;
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
  const at::Tensor flat = at::cat(parts);
  ranks.sum(flat);
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
  const double lr = learning_rate(session.config.optimizer, step, session.config.train.steps);
  const BatchRows rows(session, batch, step);
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
  RolloutGap gap(options);
  // With dropout even the first mini-batch's own log-probs are not the old ones, which are those without it.
  const double dropout = session.config.train.parameters == "lora" ? session.config.lora.dropout : 0;
  const std::size_t first_given = dropout > 0 ? 0 : 1;
  // The old log-probs of the mini-batches that are given theirs, and all references, from before the first update.
  std::vector<std::vector<at::Tensor>> old(mini_batches.size()), reference(mini_batches.size());
  const auto remember = [&] {
    const Span span("old log-probs");
    const auto started = std::chrono::steady_clock::now();
    const at::NoGradGuard no_grad;
    double largest = gap.tokens() > 0 ? gap.largest() : 0, tokens = gap.tokens();
    ranks.max(&largest, 1);
    ranks.max(&tokens, 1);
    const bool same = spec::batch_invariant(session.config) && tokens > 0 && largest == 0;
    for (std::size_t m = first_given; m < mini_batches.size(); ++m)
      for (const Range micro : mini_batches[m]) {
        check_stop();
        old[m].push_back(same ? rows.sampled_logprobs(micro, rows.longest(micro)) : rows.logprobs(micro).logprobs);
      }
    result.metrics["timing_s/old_log_prob"] = seconds_since(started);
  };
  if (dropout > 0) remember();
  if (options.kl_coef > 0) {
    const Span span("reference log-probs");
    const auto started = std::chrono::steady_clock::now();
    for (std::size_t m = 0; m < mini_batches.size(); ++m)
      for (const Range micro : mini_batches[m]) {
        check_stop();
        reference[m].push_back(rows.reference(micro));
      }
    result.metrics["timing_s/ref"] = seconds_since(started);
  }

  double loss_sum = 0, policy_sum = 0, kl_loss_sum = 0, norm_sum = 0, largest_norm = 0, tokens = 0, kl = 0, clipped = 0,
         clipped_lower = 0, entropy = 0;
  double first_ratio = 0, first_deviation = 0;
  for (std::size_t m = 0; m < mini_batches.size(); ++m) {
    const auto& micros = mini_batches[m];
    const LossScale scale = rows.scale(whole[m]);
    optimizer.zero_grad();
    double loss = 0, ratio = 0, deviation = 0;
    bool graph = false;
    for (std::size_t i = 0; i < micros.size(); ++i) {
      check_stop();
      if (dropout > 0)
        session.decoder->set_dropout(dropout, derive_seed(static_cast<std::uint64_t>(session.config.train.seed),
                                                          rows.index(micros[i]), Purpose::dropout));
      const TokenLogprobs now = [&] {
        const Span span("forward");
        return rows.logprobs(micros[i], options.entropy_coef > 0);
      }();
      if (dropout > 0) session.decoder->set_dropout(0, 0);
      const at::Tensor before = m < first_given ? now.logprobs.detach() : old[m][i];
      const at::Tensor sampled = rows.sampled_logprobs(micros[i], now.mask.size(1));
      LossInputs more;
      if (options.kl_coef > 0) more.reference = reference[m][i];
      if (options.entropy_coef > 0) more.entropy = now.entropy;
      if (options.importance_weights) more.weights = importance_weights(before, sampled, options.weight_cap);
      const PolicyLoss part = policy_loss(now.logprobs, before, rows.advantages(micros[i]), now.mask, options, scale, more);
      loss += part.loss.item<double>();
      policy_sum += part.policy;
      kl_loss_sum += part.kl_loss;
      kl += part.kl;
      clipped += part.clipped;
      clipped_lower += part.clipped_lower;
      ratio += part.ratio;
      deviation = std::max(deviation, part.ratio_deviation);
      entropy += at::where(now.mask > 0, now.entropy.detach().to(at::kDouble), 0.0).sum().item<double>();
      gap.add(before, sampled, now.mask);
      if (!std::isfinite(loss)) break;
      if (part.loss.requires_grad()) {
        const Span span("backward");
        part.loss.backward();
        graph = true;
      }
    }
    if (m == 0 && dropout == 0) remember();
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
  double sums[] = {kl, clipped, clipped_lower, entropy, policy_sum, kl_loss_sum};
  ranks.sum(sums, std::size(sums));
  std::tie(kl, clipped, clipped_lower, entropy, policy_sum, kl_loss_sum) =
      std::tie(sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]);
  gap.reduce(ranks);

  auto& metrics = result.metrics;
  const auto minis = static_cast<double>(result.updates + result.without_graph);
  if (minis > 0) {
    metrics["actor/pg_loss"] = policy_sum / minis;
    if (options.kl_coef > 0) {
      metrics["actor/kl_loss"] = kl_loss_sum / minis;
      metrics["actor/kl_coef"] = options.kl_coef;
    }
    if (options.kl_coef > 0 || options.entropy_coef > 0) metrics["actor/loss"] = loss_sum / minis;
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
