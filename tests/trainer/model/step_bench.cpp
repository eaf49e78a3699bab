// Processor time of one GRPO step of the default experiment's shape, by phase; random weights, no early end. With one
// thread it is the wall time of an otherwise idle machine.
//   step_bench [none|nvfp4|mxfp4] [new tokens] [threads]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "tests/trainer/model/tiny.h"

using namespace assay;
using namespace assay::train;

namespace {

double now() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string format = argc > 1 ? argv[1] : "none";
  const std::int64_t max_new = argc > 2 ? std::atoll(argv[2]) : 26;
  at::set_num_threads(argc > 3 ? std::atoi(argv[3]) : 1);
  ModelShape shape = test::tiny_shape("qwen2", 6);
  shape.vocabulary = 512;
  shape.hidden = 96;
  shape.head_size = 24;
  shape.intermediate = 240;
  Decoder decoder = test::tiny_decoder(shape);
  spec::LoraConfig lora;
  test::attach_random_lora(decoder, lora);
  spec::QuantConfig quant = test::quant_config("pre", true, format);
  quant.exclude = {"^.*\\.base_layer$"};
  decoder.attach_quantizers(quant);
  const auto prompts = test::random_sequences(64, 36, 44, 1, 512);
  SamplerOptions options;
  options.samples_per_prompt = 8;
  options.max_new_tokens = max_new;
  for (int step = 0; step < 4; ++step) {
    const double t0 = now();
    decoder.set_phase(Phase::rollout);
    const Rollout rollout = sample(decoder, prompts, options);
    const double t1 = now();
    decoder.set_phase(Phase::training);
    double forward = 0, backward = 0, worst = 0;
    for (std::size_t first = 0; first < 64; first += 16) {
      const test::Sequences some(prompts.begin() + static_cast<std::ptrdiff_t>(first),
                                 prompts.begin() + static_cast<std::ptrdiff_t>(first + 16));
      const test::Sequences rows(rollout.responses.begin() + static_cast<std::ptrdiff_t>(first * 8),
                                 rollout.responses.begin() + static_cast<std::ptrdiff_t>((first + 16) * 8));
      const double a = now();
      const TokenLogprobs scored = token_logprobs(decoder, some, rows, 8, 1.0);
      const double b = now();
      (scored.logprobs * 0.1).sum().backward();
      forward += b - a;
      backward += now() - b;
      for (std::size_t i = 0; i < rows.size(); ++i)
        for (std::size_t t = 0; t < rows[i].size(); ++t)
          worst = std::max<double>(worst, std::abs(rollout.logprobs[first * 8 + i][t] -
                                                   scored.logprobs.const_data_ptr<float>()[i * static_cast<std::size_t>(scored.logprobs.size(1)) + t]));
    }
    std::printf("%s, %lld new tokens: rollout %.3f s, forward %.3f s, backward %.3f s, step %.3f s; log-prob gap %.3g\n",
                format.c_str(), static_cast<long long>(max_new), t1 - t0, forward, backward, now() - t0, worst);
    options.seed++;
  }
  options.samples_per_prompt = 1;
  options.temperature = 0;
  options.batch_size = 256;
  decoder.set_phase(Phase::rollout);
  const double t = now();
  sample(decoder, test::random_sequences(1024, 36, 44, 2, 512), options);
  std::printf("greedy evaluation of 1024 problems: %.3f s\n", now() - t);
}
