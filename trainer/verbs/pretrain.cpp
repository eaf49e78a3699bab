#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "trainer/grpo/exit_code.h"
#include "trainer/tasks/pretrain.h"
#include "trainer/verbs/task_config.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

struct Options {
  std::filesystem::path config, out;
  std::string revision;
};

void pretrain_base(const Options& options) {
  const tasks::TaskConfig config = read_task_config(options.config);
  const std::filesystem::path out = options.out.empty() ? config.model.out : options.out;
  const auto started = std::chrono::steady_clock::now();
  const auto seconds = [started] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  };
  const auto progress = [&](const tasks::PretrainStep& step) {
    if (step.step % 100 != 0 && step.step != 1 && step.step != config.training.steps) return;
    std::printf("step %lld of %lld  loss %.4f  lr %.2e  %.0f s\n", static_cast<long long>(step.step),
                static_cast<long long>(config.training.steps), step.loss, step.lr, seconds());
    std::fflush(stdout);
  };
  const tasks::PretrainResult result = tasks::pretrain(config, out, options.revision, progress);
  std::printf("%lld parameters, %lld tokens, loss %.4f, %.0f s\n", static_cast<long long>(result.parameters),
              static_cast<long long>(result.tokens), result.loss, seconds());
  for (const tasks::TopicAccuracy& topic : result.accuracy)
    std::printf("  %-10s %4lld problems  greedy %5.1f %%  sampled %5.1f %%\n", topic.topic.c_str(),
                static_cast<long long>(topic.problems),
                100.0 * static_cast<double>(topic.greedy) / static_cast<double>(topic.problems),
                100.0 * static_cast<double>(topic.sampled) / static_cast<double>(topic.problems));
  std::printf("written to %s\n", out.c_str());
}

}  // namespace

void add_pretrain(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("pretrain", "train a small base model on word problems, as CONFIG says");
  auto options = std::make_shared<Options>();
  verb->add_option("CONFIG", options->config, "a task file, e.g. experiments/e13/pretrain.toml")->required();
  verb->add_option("--out", options->out, "the Hugging Face folder to write; default: model.out of CONFIG");
  verb->add_option("--revision", options->revision, "which source made it, for the model card");
  verb->callback([options, &exit_code] {
    pretrain_base(*options);
    exit_code = exit_finished;
  });
}

}  // namespace assay::train
