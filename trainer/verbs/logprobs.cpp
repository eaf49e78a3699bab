#include <ATen/core/grad_mode.h>

#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "trainer/grpo/exit_code.h"
#include "trainer/rollout/sampler.h"
#include "trainer/verbs/json_lines.h"
#include "trainer/verbs/open_model.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

using Json = nlohmann::json;

// The first token is the prompt, the others the response: one pass, and no logits kept.
Json answer(Decoder& decoder, const Json& line) {
  refuse_unknown(line, {"ids"});
  if (!line.contains("ids")) throw std::runtime_error("\"ids\" is missing");
  const std::vector<std::int32_t> ids = ids_of(line["ids"], decoder.shape().vocabulary);
  Json logprobs = Json::array();
  if (ids.size() > 1) {
    const at::NoGradGuard no_grad;
    const at::Tensor scored = token_logprobs(decoder, {{ids.front()}}, {{ids.begin() + 1, ids.end()}}, 1, 1.0).logprobs;
    for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
      const float logprob = scored.const_data_ptr<float>()[t];
      if (!std::isfinite(logprob)) throw std::runtime_error("the model's logits are not finite");
      logprobs.push_back(logprob);
    }
  }
  return {{"logprobs", logprobs}};
}

}  // namespace

void add_logprobs(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("logprobs",
                                  "JSON lines on standard input: {\"ids\"} gives {\"logprobs\"}, one for each token after "
                                  "the first");
  struct Options {
    std::filesystem::path model, adapter;
    std::string dtype = "fp32";
    int threads = 1;
    bool json = true;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("--model", options->model, "a Hugging Face folder")->required();
  verb->add_option("--adapter", options->adapter, "a PEFT adapter folder to put onto it, e.g. a run's adapter/");
  verb->add_option("--dtype", options->dtype, "arithmetic: fp32 (default) or bf16")->check(CLI::IsMember({"fp32", "bf16"}));
  verb->add_option("--threads", options->threads, "processor threads (default 1)")->check(CLI::Range(1, 1024));
  verb->add_flag("--json", options->json, "the output is JSON lines with and without it");
  verb->callback([options, &exit_code] {
    Decoder decoder = open_model(options->model, options->adapter, options->threads, options->dtype);
    answer_json_lines(std::cin, std::cout, [&decoder](const Json& line) { return answer(decoder, line); });
    exit_code = exit_finished;
  });
}

}  // namespace assay::train
