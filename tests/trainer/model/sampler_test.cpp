// Sampling: whose draw is whose, the kept log-probs, top-k and top-p.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <set>

#include "catch.h"
#include "tests/trainer/model/tiny.h"
#include "trainer/rollout/stream.h"

using namespace assay;
using namespace assay::train;
using test::Sequences;

namespace {

SamplerOptions options(std::int64_t samples, std::int64_t max_new, std::uint64_t seed = 5) {
  SamplerOptions o;
  o.samples_per_prompt = samples;
  o.max_new_tokens = max_new;
  o.eos_ids = {0, 1, 2};
  o.seed = seed;
  return o;
}

// Largest |sampler's log-prob - trainer's|.
double mismatch(Decoder& decoder, const Sequences& prompts, const Rollout& rollout, std::int64_t samples,
                double temperature) {
  const at::NoGradGuard no_grad;
  const TokenLogprobs scored = token_logprobs(decoder, prompts, rollout.responses, samples, temperature);
  double worst = 0;
  double tokens = 0;
  for (std::size_t i = 0; i < rollout.responses.size(); ++i)
    for (std::size_t t = 0; t < rollout.responses[i].size(); ++t) {
      const auto row = static_cast<std::int64_t>(i), place = static_cast<std::int64_t>(t);
      CHECK(scored.mask[row][place].item<float>() == 1);
      worst = std::max<double>(worst, std::abs(scored.logprobs[row][place].item<float>() - rollout.logprobs[i][t]));
      ++tokens;
    }
  CHECK(scored.mask.sum().item<double>() == tokens);
  CHECK((scored.logprobs * (1 - scored.mask)).abs().sum().item<double>() == 0);
  return worst;
}

}  // namespace

TEST_CASE("the generator gives the published vectors") {
  // Random123 1.14, kat_vectors, philox4x32 10 rounds.
  using Four = std::array<std::uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("what a row gets does not depend on batch_size or on who is alive") {
  Decoder decoder = test::tiny_decoder();
  const Sequences prompts = test::random_sequences(6, 2, 9, 31);
  const Rollout all = sample(decoder, prompts, options(4, 12));
  SamplerOptions few = options(4, 12);
  few.batch_size = 9;  // two groups at once
  const Rollout parts = sample(decoder, prompts, few);
  CHECK(all.responses == parts.responses);
  CHECK(all.logprobs == parts.logprobs);
  CHECK(all.truncated == parts.truncated);
  CHECK(sample(decoder, prompts, options(4, 12)).responses == all.responses);
  CHECK(sample(decoder, prompts, options(4, 12, 6)).responses != all.responses);
  // Without an end of text nobody leaves: rows get the same beginning.
  SamplerOptions endless = options(4, 12);
  endless.eos_ids = {};
  const Rollout whole = sample(decoder, prompts, endless);
  std::size_t ended = 0;
  for (std::size_t i = 0; i < all.responses.size(); ++i) {
    const auto& row = all.responses[i];
    CHECK(std::equal(row.begin(), row.end(), whole.responses[i].begin()));
    CHECK(whole.responses[i].size() == 12);
    CHECK(all.truncated[i] == (row.size() == 12 && row.back() > 2));
    ended += !all.truncated[i];
  }
  CHECK(ended > 2);
  CHECK(ended < 24);
}

TEST_CASE("the trainer's log-probs are the sampler's") {
  const Sequences prompts = test::random_sequences(5, 1, 24, 41);
  struct Case { std::string format, hook, scope; double temperature; double bound; };
  for (const Case& c : {Case{"none", "pre", "tensor", 1.0, 0}, Case{"none", "pre", "tensor", 0.7, 0},
                        Case{"nvfp4", "pre", "row", 1.0, 0}, Case{"nvfp4", "post", "row", 1.0, 0},
                        Case{"mxfp4", "pre", "tensor", 1.0, 0}, Case{"nvfp4", "pre", "tensor", 1.0, 3.0}}) {
    Decoder decoder = test::tiny_decoder();
    test::attach_random_lora(decoder);
    spec::QuantConfig quant = test::quant_config(c.hook, true, c.format);
    quant.tensor_scale = c.scope;
    decoder.attach_quantizers(quant);
    SamplerOptions o = options(4, 30);
    o.temperature = c.temperature;
    decoder.set_phase(Phase::rollout);
    const Rollout rollout = sample(decoder, prompts, o);
    decoder.set_phase(Phase::training);
    const double worst = mismatch(decoder, prompts, rollout, 4, c.temperature);
    INFO(c.format << " " << c.hook << " " << c.scope << " " << worst);
    // Only a tensor scale over the whole batch makes the two differ (here with weights larger than any real model's).
    CHECK(worst <= c.bound);
    std::printf("sampler against trainer, %s %s scope %s, temperature %g: %g\n", c.format.c_str(), c.hook.c_str(),
                c.scope.c_str(), c.temperature, worst);
  }
}

TEST_CASE("drawn tokens follow the distribution; top-k and top-p cut it, the log-prob stays the whole one's") {
  Decoder decoder = test::tiny_decoder();
  const Sequences prompts{{5, 9, 4}};
  SamplerOptions o = options(20000, 1);
  const at::Tensor p = [&] {
    const at::NoGradGuard no_grad;
    return at::softmax(decoder.logits(decoder.prefill(rows_of(prompts)).last)[0], 0);
  }();
  const auto count = [&](const Rollout& rollout) {
    at::Tensor counts = at::zeros({61});
    for (const auto& row : rollout.responses) counts[row[0]] += 1;
    return counts;
  };
  const Rollout free = sample(decoder, prompts, o);
  // Pearson's statistic over 61 cells: above 110 for a right sampler once in 10^4 draws of the seed.
  CHECK(((count(free) - p * 20000).pow(2) / (p * 20000)).sum().item<double>() < 110);

  const auto [sorted, order] = p.sort(0, true);
  SamplerOptions top = o;
  top.top_k = 3;
  const at::Tensor kept = count(sample(decoder, prompts, top));
  CHECK((kept > 0).sum().item<std::int64_t>() == 3);
  for (std::int64_t i = 0; i < 3; ++i) {
    const double share = (sorted[i] / sorted.narrow(0, 0, 3).sum()).item<double>();
    CHECK(kept[order[i].item<std::int64_t>()].item<double>() / 20000 == Approx(share).margin(0.02));
  }
  SamplerOptions nucleus = o;
  nucleus.top_p = (sorted[0] + sorted[1] / 2).item<double>();  // reached by the second token
  const Rollout cut = sample(decoder, prompts, nucleus);
  CHECK((count(cut) > 0).sum().item<std::int64_t>() == 2);
  CHECK(cut.logprobs[0][0] == Approx(std::log(p[cut.responses[0][0]].item<double>())).margin(1e-5));
}

TEST_CASE("min-p keeps the tokens that have a share of the likeliest one's probability") {
  Decoder decoder = test::tiny_decoder();
  const Sequences prompts{{5, 9, 4}};
  SamplerOptions o = options(5000, 1);
  const at::Tensor p = [&] {
    const at::NoGradGuard no_grad;
    return at::softmax(decoder.logits(decoder.prefill(rows_of(prompts)).last)[0], 0);
  }();
  const auto sorted = std::get<0>(p.sort(0, true));
  const auto drawn = [&] {
    std::set<std::int32_t> tokens;
    for (const auto& row : sample(decoder, prompts, o).responses) tokens.insert(row[0]);
    return tokens;
  };
  o.min_p = ((sorted[2] + sorted[3]) / 2 / sorted[0]).item<double>();  // between the third and the fourth
  CHECK(drawn().size() == 3);
  for (const auto token : drawn()) CHECK((p[token] / sorted[0]).item<double>() >= o.min_p);
  o.top_k = 2;
  CHECK(drawn().size() == 2);
  o.top_k = 0;
  o.min_p = 0.9999999;
  CHECK(drawn().size() == 1);
}

TEST_CASE("greedy takes the likeliest token and keeps its log-prob at temperature 1") {
  Decoder decoder = test::tiny_decoder();
  const Sequences prompts = test::random_sequences(4, 2, 9, 51);
  SamplerOptions o = options(1, 8);
  o.temperature = 0;
  const Rollout rollout = sample(decoder, prompts, o);
  CHECK(mismatch(decoder, prompts, rollout, 1, 1.0) == 0);
  const at::NoGradGuard no_grad;
  const at::Tensor first = decoder.logits(decoder.prefill(rows_of(prompts)).last).argmax(-1);
  for (std::int64_t i = 0; i < 4; ++i)
    CHECK(rollout.responses[static_cast<std::size_t>(i)][0] == first[i].item<std::int64_t>());
}
