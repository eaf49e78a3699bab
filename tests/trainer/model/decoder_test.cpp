// The three ways to the same hidden states, and what rows in a batch owe each other: nothing.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/autograd.h>

#include "catch.h"
#include "tests/trainer/model/tiny.h"

using namespace assay;
using namespace assay::train;
using test::Sequences;

namespace {

at::Tensor padded(const Sequences& rows, std::int64_t width) {
  at::Tensor ids = at::zeros({static_cast<std::int64_t>(rows.size()), width}, at::kLong);
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t t = 0; t < rows[i].size(); ++t)
      ids[static_cast<std::int64_t>(i)][static_cast<std::int64_t>(t)] = rows[i][t];
  return ids;
}

at::Tensor lengths_of(const Sequences& rows) {
  std::vector<std::int64_t> lengths;
  for (const auto& row : rows) lengths.push_back(static_cast<std::int64_t>(row.size()));
  return at::tensor(lengths, at::kLong);
}

// Hidden states of rows decoded token by token, [tokens of all rows, D], in the order of respond().
std::vector<at::Tensor> decoded(Decoder& decoder, const Sequences& prompts, const std::vector<std::int64_t>& of_row,
                                const Sequences& rows) {
  const auto state = decoder.begin_decode(decoder.prefill(rows_of(prompts)), of_row, 40);
  std::vector<std::vector<at::Tensor>> hidden(rows.size());
  std::vector<std::int64_t> live(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) live[i] = static_cast<std::int64_t>(i);
  for (std::size_t t = 0;; ++t) {
    std::vector<std::int64_t> keep, next, ids;
    for (std::size_t i = 0; i < live.size(); ++i)
      if (rows[static_cast<std::size_t>(live[i])].size() > t) {
        keep.push_back(static_cast<std::int64_t>(i));
        next.push_back(live[i]);
        ids.push_back(rows[static_cast<std::size_t>(live[i])][t]);
      }
    if (keep.empty()) break;
    decoder.keep_rows(*state, keep);
    live = next;
    const at::Tensor h = decoder.decode_step(*state, at::tensor(ids, at::kLong));
    for (std::size_t i = 0; i < live.size(); ++i)
      hidden[static_cast<std::size_t>(live[i])].push_back(h.narrow(0, static_cast<std::int64_t>(i), 1));
  }
  std::vector<at::Tensor> all;
  for (const auto& row : hidden)
    for (const auto& h : row) all.push_back(h);
  return all;
}

}  // namespace

TEST_CASE("prefill and respond give what the whole sequence gives") {
  for (const std::string family : {"qwen2", "llama"}) {
    Decoder decoder = test::tiny_decoder(test::tiny_shape(family));
    test::attach_random_lora(decoder);
    const at::NoGradGuard no_grad;
    const Sequences prompts = test::random_sequences(3, 5, 20, 11), rows = test::random_sequences(6, 0, 19, 12);
    const PromptCache cache = decoder.prefill(rows_of(prompts));
    const at::Tensor logits = decoder.logits(decoder.respond(
        cache, at::tensor({0, 0, 1, 1, 2, 2}, at::kLong), padded(rows, 19), lengths_of(rows)));
    const at::Tensor first = decoder.logits(cache.last);
    Sequences whole;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      whole.push_back(prompts[i / 2]);
      whole.back().insert(whole.back().end(), rows[i].begin(), rows[i].end());
    }
    const at::Tensor all = decoder.forward(padded(whole, 40), lengths_of(whole));
    for (std::int64_t i = 0; i < 6; ++i) {
      const auto p = static_cast<std::int64_t>(prompts[static_cast<std::size_t>(i / 2)].size());
      const auto n = static_cast<std::int64_t>(rows[static_cast<std::size_t>(i)].size());
      CHECK(test::gap(all[i][p - 1], first[i / 2]) == 0);  // nothing of it depends on what follows
      if (n) CHECK(test::gap(all[i].narrow(0, p, n), logits[i].narrow(0, 0, n)) < 1e-4);
      CHECK(all[i].narrow(0, p + n, 40 - p - n).abs().sum().item<double>() == 0);
    }
    CHECK(all.abs().max().item<double>() > 1);
  }
}

TEST_CASE("decoding gives the bits of the training forward, whoever else is in the batch") {
  struct Case { std::string name; bool quantized; std::string hook, scope; };
  for (const Case& c : {Case{"plain", false, "pre", "row"}, Case{"pre", true, "pre", "row"},
                        Case{"post", true, "post", "row"}}) {
    INFO(c.name);
    Decoder decoder = test::tiny_decoder();
    test::attach_random_lora(decoder);
    if (c.quantized) {
      spec::QuantConfig quant = test::quant_config(c.hook, true);
      quant.tensor_scale = c.scope;
      decoder.attach_quantizers(quant);
    }
    const at::NoGradGuard no_grad;
    const Sequences prompts = test::random_sequences(3, 1, 33, 21), rows = test::random_sequences(7, 1, 35, 22);
    const std::vector<std::int64_t> of_row{0, 0, 0, 1, 1, 2, 2};
    const at::Tensor together = decoder.respond(decoder.prefill(rows_of(prompts)), of_row, rows_of(rows));
    CHECK(test::same_bits(at::cat(decoded(decoder, prompts, of_row, rows)), together));
    // One row alone behind its prompt alone.
    const at::Tensor alone = decoder.respond(decoder.prefill(rows_of({prompts[1]})), std::vector<std::int64_t>{0},
                                             rows_of({rows[4]}));
    std::int64_t before = 0;
    for (std::size_t i = 0; i < 4; ++i) before += static_cast<std::int64_t>(rows[i].size());
    CHECK(test::same_bits(alone, together.narrow(0, before, alone.size(0))));
  }
}

TEST_CASE("threads do not change a bit, forward or backward") {
  const auto gradients = [](int threads) {
    at::set_num_threads(threads);
    Decoder decoder = test::tiny_decoder();
    test::attach_random_lora(decoder);
    decoder.attach_quantizers(test::quant_config("pre", true));
    const TokenLogprobs scored = token_logprobs(decoder, test::random_sequences(40, 1, 33, 1),
                                                test::random_sequences(160, 1, 20, 2), 4, 1.0);
    std::vector<at::Tensor> leaves;
    for (const auto& t : decoder.adapter()) leaves.push_back(t.tensor);
    auto result = torch::autograd::grad({scored.logprobs.sum()}, leaves);
    result.push_back(scored.logprobs.detach());
    at::set_num_threads(1);
    return result;
  };
  const auto one = gradients(1), two = gradients(2);
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(test::same_bits(one[i], two[i]));
}

TEST_CASE("gradients through prompts and responses are those of the whole sequence") {
  const Sequences prompts = test::random_sequences(2, 4, 9, 1), rows = test::random_sequences(4, 1, 12, 2);
  const auto build = [] {
    Decoder decoder = test::tiny_decoder();
    test::attach_random_lora(decoder);
    return decoder;
  };
  const auto leaves = [](const Decoder& decoder) {
    std::vector<at::Tensor> all;
    for (const auto& t : decoder.adapter()) all.push_back(t.tensor);
    return all;
  };
  Decoder shared = build(), whole = build();
  const TokenLogprobs scored = token_logprobs(shared, prompts, rows, 2, 0.8);
  Sequences sequences;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    sequences.push_back(prompts[i / 2]);
    sequences.back().insert(sequences.back().end(), rows[i].begin(), rows[i].end());
  }
  const at::Tensor all = at::log_softmax(whole.forward(padded(sequences, 21), lengths_of(sequences)) / 0.8, -1);
  at::Tensor expected = at::zeros({});
  for (std::int64_t i = 0; i < 4; ++i) {
    const auto& row = rows[static_cast<std::size_t>(i)];
    const auto p = static_cast<std::int64_t>(prompts[static_cast<std::size_t>(i / 2)].size());
    for (std::size_t t = 0; t < row.size(); ++t) {
      const at::Tensor one = all[i][p + static_cast<std::int64_t>(t) - 1][row[t]];
      CHECK(test::gap(one.detach(), scored.logprobs[i][static_cast<std::int64_t>(t)].detach()) < 2e-5);
      expected = expected + one * static_cast<double>(1 + i);
    }
  }
  const at::Tensor loss = (scored.logprobs * at::tensor({1.f, 2.f, 3.f, 4.f}).unsqueeze(1)).sum();
  const auto got = torch::autograd::grad({loss}, leaves(shared));
  const auto wanted = torch::autograd::grad({expected}, leaves(whole));
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(wanted[i].abs().max().item<double>() > 0);
    CHECK(test::gap(got[i], wanted[i]) < 1e-4 * wanted[i].abs().max().item<double>() + 1e-6);
  }
}

TEST_CASE("a trainable base gets the gradients of central differences") {
  Decoder decoder = test::tiny_decoder(test::tiny_shape("qwen2", 1));
  decoder.set_base_trainable(true);
  const Sequences rows = test::random_sequences(3, 4, 9, 5);
  const auto loss = [&] {
    const at::Tensor all = at::log_softmax(decoder.forward(padded(rows, 9), lengths_of(rows)), -1);
    at::Tensor sum = at::zeros({});
    for (std::int64_t i = 0; i < 3; ++i) {
      const auto& row = rows[static_cast<std::size_t>(i)];
      for (std::size_t t = 1; t < row.size(); ++t) sum = sum + all[i][static_cast<std::int64_t>(t) - 1][row[t]];
    }
    return sum;
  };
  std::vector<at::Tensor> leaves;
  for (const auto& t : decoder.base_weights()) leaves.push_back(t.tensor);
  const auto gradients = torch::autograd::grad({loss()}, leaves);
  const auto random = test::generator(8);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const at::NoGradGuard no_grad;
    INFO(decoder.base_weights()[i].name);
    const at::Tensor direction = at::empty_like(leaves[i]).normal_(0, 1, random);
    const double step = 1e-3 * leaves[i].abs().mean().item<double>() + 1e-4;
    leaves[i].add_(direction, step);
    const double up = loss().item<double>();
    leaves[i].sub_(direction, 2 * step);
    const double down = loss().item<double>();
    leaves[i].add_(direction, step);
    const double expected = (gradients[i] * direction).sum().item<double>();
    CHECK((up - down) / (2 * step) == Approx(expected).epsilon(0.03).margin(0.05));
  }
}

TEST_CASE("an optimizer's writes are seen by the next pass") {
  Decoder decoder = test::tiny_decoder();
  test::attach_random_lora(decoder);
  const at::NoGradGuard no_grad;
  const Sequences prompts = test::random_sequences(2, 3, 6, 1);
  const at::Tensor before = decoder.prefill(rows_of(prompts)).last;
  float* raw = decoder.adapter()[1].tensor.mutable_data_ptr<float>();  // without LibTorch noticing
  raw[0] += 1.f;
  const at::Tensor after = decoder.prefill(rows_of(prompts)).last;
  CHECK(test::gap(before, after) > 1e-4);
  raw[0] -= 1.f;
}

TEST_CASE("an adapter whose B is 0 changes no bit, has a gradient, and is heard from its first write on") {
  Decoder plain = test::tiny_decoder(), decoder = test::tiny_decoder();
  decoder.attach_lora(test::lora_config(), 1);
  const Sequences prompts = test::random_sequences(2, 3, 6, 1);
  const auto last = [&](Decoder& of) {
    const at::NoGradGuard no_grad;
    return of.prefill(rows_of(prompts)).last;
  };
  CHECK(test::same_bits(last(plain), last(decoder)));
  const at::Tensor b = decoder.adapter()[1].tensor;
  REQUIRE(decoder.adapter()[1].name.find("lora_B") != std::string::npos);
  const at::Tensor gradient = torch::autograd::grad({decoder.prefill(rows_of(prompts)).last.sum()}, {b})[0];
  CHECK(gradient.abs().max().item<float>() > 0);
  b.mutable_data_ptr<float>()[0] = 1.f;
  CHECK(test::gap(last(plain), last(decoder)) > 1e-4);
}

TEST_CASE("input that a pass refuses") {
  Decoder decoder = test::tiny_decoder();
  CHECK_THROWS_WITH(decoder.prefill(rows_of({{1, 61}})), "token id 61 is outside of the model's vocabulary of 61");
  CHECK_THROWS_WITH(decoder.prefill(rows_of({{1, -1}})), "token id -1 is outside of the model's vocabulary of 61");
  CHECK_THROWS_WITH(decoder.prefill(rows_of({{1}, {}})), "a prompt has no token");
  CHECK_THROWS_WITH(decoder.prefill(rows_of({std::vector<std::int32_t>(257, 1)})),
                    "a sequence of 257 tokens is longer than the model's 256 positions");
}
