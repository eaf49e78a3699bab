#include "trainer/grpo/train.h"

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "quant/fake_quantize.h"
#include "support/files.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/coverage_watch.h"
#include "trainer/grpo/evaluate.h"
#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/report_step.h"
#include "trainer/grpo/rollout_batch.h"
#include "trainer/grpo/seeds.h"
#include "trainer/grpo/session.h"
#include "trainer/grpo/stop.h"
#include "trainer/grpo/update.h"
#include "trainer/model/kernels/kernels.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

MetricsLog open_log(const fs::path& folder) {
  if (fs::exists(folder / "metrics.jsonl"))
    throw BadInput(folder.string() + ": it holds the metrics of a run already, and a run folder is never used twice; make a new one");
  try {
    return MetricsLog(folder);
  } catch (const std::exception& error) {
    throw BadInput(std::string(error.what()) + ": the run folder cannot be written");
  }
}

class Run {
 public:
  Run(const fs::path& folder, MetricsLog& log, Session session, bool json)
      : json_(json),
        folder_(folder),
        log_(log),
        session_(std::move(session)),
        config_(session_.config),
        optimizer_(session_.decoder->adapter(), config_.optimizer),
        order_(session_.train.problems.size(), static_cast<std::uint64_t>(config_.train.seed)),
        coverage_(adapter_names()),
        test_sha256_(support::sha256_file(session_.test.file)) {}

  // Training with its two early ends.
  ExitCode run() {
    // The code paths are part of what "the same machine type" means.
    log_.event(0, "started", "training begins",
               {{"total_steps", config_.train.steps}, {"quant", session_.report.label},
                {"kernels", kernels::active().name}, {"quant_path", quant::name(quant::best_path())}});
    const auto expected = session_.derived.quantized_modules, attached = static_cast<std::int64_t>(session_.report.modules.size());
    if (expected >= 0 && expected != attached)
      log_.event(0, "finding",
                 std::to_string(attached) + " modules are quantized, and derived.json expected " + std::to_string(expected),
                 {{"id", "module-count"}});
    try {
      if (!loop()) return terminated();
    } catch (const NonFinite& error) {
      return non_finite(error.what());
    } catch (const NonFiniteLogits& error) {
      return non_finite(error.what());
    }
    write_adapter(folder_ / "adapter", session_.decoder->adapter(), config_.lora, session_.derived.model_path);
    log_.event(config_.train.steps, "finished", "all steps are done");
    return exit_finished;
  }

 private:
  // The whole of training. A step is: sample and score a batch, update the adapters on it, and now and then evaluate.
  // False: a stop signal came.
  bool loop() {
    if (!evaluate_now()) return false;
    for (step_ = 1; step_ <= config_.train.steps; ++step_) {
      const auto t0 = Clock::now();
      const Batch batch = collect_batch(session_, order_, step_);
      const auto t1 = Clock::now();
      if (stop_requested()) return false;

      const auto before = optimizer_.snapshot();
      UpdateResult update = update_policy(session_, optimizer_, batch, step_);
      const auto t2 = Clock::now();
      if (stop_requested()) return false;

      update.metrics["actor/weight_norm"] = optimizer_.parameter_norm();
      update.metrics["actor/update_norm"] = optimizer_.distance(before);
      report(batch, update, {seconds(t0, t1), seconds(t1, t2), seconds(t0, Clock::now())});

      const bool due = step_ % config_.eval.test_freq == 0;
      if ((due || step_ == config_.train.steps) && !evaluate_now()) return false;
    }
    return true;
  }

  std::vector<std::string> adapter_names() const {
    std::vector<std::string> names;
    for (const auto& tensor : session_.decoder->adapter()) names.push_back(tensor.name);
    return names;
  }

  bool evaluate_now() {  // false: a stop signal came
    const auto evaluation = evaluate(session_);
    if (!evaluation) return false;
    write_evaluation(folder_, step_, *evaluation, test_sha256_);
    const auto line = log_.metrics(step_, evaluation->metrics());
    say(json_ ? line : "step " + std::to_string(step_) + " evaluation: " + summary(*evaluation));
    return true;
  }

  void report(const Batch& batch, const UpdateResult& update, const StepTimes& times) {
    Metrics metrics = batch_metrics(batch, config_.rollout.max_response_length, times);
    metrics.insert(update.metrics.begin(), update.metrics.end());
    write_samples(folder_, step_, batch);
    const auto line = log_.metrics(step_, metrics);
    say(json_ ? line : step_line(step_, config_.train.steps, metrics));
    if (batch.short_of_groups)
      log_.event(step_, "groups_short",
                 std::to_string(batch.prompt_count()) + " of " + std::to_string(config_.grpo.train_batch_size) +
                     " groups have a spread of scores after " + std::to_string(batch.generation_batches) +
                     " generation batches; going on with these",
                 {{"groups", batch.prompt_count()}, {"generation_batches", batch.generation_batches}});
    if (update.without_graph > 0 && !said_no_gradient_) {
      said_no_gradient_ = true;
      log_.event(step_, "no_gradient",
                 "the loss depends on no adapter, so nothing can be learned; further steps count in actor/no_gradient_updates");
    }
    coverage_.add(step_, batch, update, learning_rate(config_.optimizer, step_), log_);
  }

  ExitCode terminated() {
    log_.event(step_, "terminated", std::string("ended by ") + stop_signal(), {{"signal", stop_signal()}});
    if (!json_) say(std::string("ended by ") + stop_signal() + " in step " + std::to_string(step_));
    return exit_terminated;
  }

  ExitCode non_finite(const std::string& what) {
    const bool trained = step_ > 0;  // before that the weights themselves are to blame
    const std::string message = "step " + std::to_string(step_) + ": " + what + (trained ? "; stopped before the optimizer step" : "");
    log_.event(step_, "non_finite", message);
    std::fprintf(stderr, "%s: %s; %s\n", folder_.c_str(), message.c_str(),
                 trained ? "try a smaller optimizer.lr" : "check the model's weights");
    return exit_non_finite;
  }

  bool json_;
  fs::path folder_;
  MetricsLog& log_;
  Session session_;
  const spec::Config& config_;
  Optimizer optimizer_;
  DataOrder order_;
  CoverageWatch coverage_;
  std::string test_sha256_;
  std::int64_t step_ = 0;
  bool said_no_gradient_ = false;
};

}  // namespace

ExitCode train(const fs::path& run_folder, const TrainOptions& options) {
  catch_stop_signals();
  if (!fs::is_directory(run_folder)) throw BadInput(run_folder.string() + ": there is no such run folder");
  Inputs inputs = read_inputs(run_folder);
  // Opened first, so that a folder that cannot be written is refused before minutes of loading.
  MetricsLog log = open_log(run_folder);
  Session session = open_session(inputs, options.quantizer);
  support::write_file_atomically(run_folder / "quant-report.json", quant_report_json(session.report));
  Run run(run_folder, log, std::move(session), options.json);
  return run.run();
}

}  // namespace assay::train
