#include "trainer/grpo/train.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "quant/fake_quantize.h"
#include "quant/torch/exact.h"
#include "support/files.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/checkpoint.h"
#include "trainer/grpo/coverage_watch.h"
#include "trainer/grpo/evaluate.h"
#include "trainer/grpo/finding_watch.h"
#include "trainer/grpo/gpu_ranks.h"
#include "trainer/grpo/memory.h"
#include "trainer/grpo/metrics_log.h"
#include "trainer/grpo/model_io.h"
#include "trainer/grpo/optimizer.h"
#include "trainer/grpo/report_step.h"
#include "trainer/grpo/rollout_batch.h"
#include "trainer/grpo/seeds.h"
#include "trainer/grpo/session.h"
#include "trainer/grpo/stop.h"
#include "trainer/grpo/update.h"
#include "trainer/model/kernels/kernels.h"
#include "trainer/profile/profile.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void open_log(std::optional<MetricsLog>& log, const fs::path& folder) {
  try {
    log.emplace(folder);
  } catch (const std::exception& error) {
    throw BadInput(std::string(error.what()) + ": the run folder cannot be written");
  }
}

// What a run folder has seen so far.
struct Past {
  bool trained = false;   // the metrics of a training step are there
  bool finished = false;
};

Past past_of(const fs::path& folder) {
  const auto any = [&](const char* file, auto&& is) {
    std::ifstream in(folder / file, std::ios::binary);
    for (std::string line; std::getline(in, line);)
      if (const auto value = nlohmann::json::parse(line, nullptr, false); value.is_object() && is(value)) return true;
    return false;
  };
  return {any("metrics.jsonl", [](const auto& line) { return line.value("step", 0) > 0; }),
          any("events.jsonl", [](const auto& line) { return line.value("kind", "") == "finished"; })};
}

// The code paths: the processor's, or the GPU's.
Machine machine_of(const Accelerator* accelerator) {
  if (accelerator && accelerator->device().is_cuda()) return {accelerator->name(), "cuda"};
  return {accelerator ? accelerator->name() : kernels::active().name, std::string(quant::name(quant::best_path()))};
}

class Run {
 public:
  Run(const fs::path& folder, MetricsLog& log, Session session, bool json)
      : json_(json),
        folder_(folder),
        log_(log),
        session_(std::move(session)),
        ranks_(*session_.ranks),
        config_(session_.config),
        optimizer_(session_.decoder->trainable(), config_.optimizer),
        order_(session_.train.problems.size(), static_cast<std::uint64_t>(config_.train.seed)),
        coverage_(adapter_names()),
        store_(folder, config_, session_.derived.model_path, session_.decoder->trainable()),
        test_sha256_(support::sha256_file(session_.test.file)),
        machine_(machine_of(session_.decoder->accelerator())),
        state_(optimizer_.state()) {
    at_.data = order_.place();
    at_.coverage = coverage_.state();
  }

  std::optional<Checkpoint> newest_checkpoint() const { return store_.newest(); }

  // Goes on from a checkpoint of this run instead of from the beginning.
  void resume(const Checkpoint& checkpoint) {
    at_ = checkpoint.position;
    saved_ = at_;
    state_ = checkpoint.state;
    optimizer_.restore(state_);
    order_.go_to(at_.data);
    coverage_.restore(at_.coverage);
    log_.replay_from(checkpoint.log);
    log_.event(at_.step, "resumed", "training goes on behind step " + std::to_string(at_.step),
               {{"checkpoint", checkpoint.folder.filename().string()}, {"kernels", machine_.kernels},
                {"quant_path", machine_.quant_path}});
    if (checkpoint.machine.kernels != machine_.kernels || checkpoint.machine.quant_path != machine_.quant_path)
      log_.event(at_.step, "finding",
                 "the checkpoint was written with kernels " + checkpoint.machine.kernels + " and " + checkpoint.machine.quant_path +
                     ", and this machine runs " + machine_.kernels + " and " + machine_.quant_path +
                     "; the bits will not be those of a run that was never interrupted",
                 {{"id", "other-machine"}});
  }

  std::int64_t steps_done() const { return at_.step; }
  const Accelerator* accelerator() const { return session_.decoder->accelerator(); }

  // Training with its two early ends.
  ExitCode run() {
    if (!saved_) {
      // The code paths are part of what "the same machine type" means.
      log_.event(0, "started", "training begins",
                 {{"total_steps", config_.train.steps}, {"quant", session_.report.label},
                  {"kernels", machine_.kernels}, {"quant_path", machine_.quant_path}});
      const auto expected = session_.derived.quantized_modules, attached = static_cast<std::int64_t>(session_.report.modules.size());
      if (expected >= 0 && expected != attached)
        log_.event(0, "finding",
                   std::to_string(attached) + " modules are quantized, and derived.json expected " + std::to_string(expected),
                   {{"id", "module-count"}});
      const auto* accelerator = session_.decoder->accelerator();
      if (const double error = accelerator ? quant::exact_product_error(accelerator->device()) : 0; error != 0)
        log_.event(0, "finding",
                   accelerator->name() + " does not add products of bf16 in fp32 (known sums are off by " + std::to_string(error) +
                       "), so W4A4 products are fp32 ones",
                   {{"id", "inexact-units"}, {"error", error}});
    }
    try {
      loop();
    } catch (const Stopped&) {
      return terminated();
    } catch (const NonFinite& error) {
      return non_finite(error.what());
    } catch (const NonFiniteLogits& error) {
      return non_finite(error.what());
    } catch (const ScorerFailed& error) {
      log_.event(step_, "scorer_failed", error.what());
      throw;
    } catch (const OutOfMemory& error) {
      log_.event(step_, "out_of_memory", error.what());
      throw;
    }
    if (ranks_.leads() && config_.train.parameters == "full")
      write_model(folder_ / "trained", session_.decoder->base_weights(), session_.derived.model_path);
    else if (ranks_.leads())
      write_adapter(folder_ / "adapter", session_.decoder->adapter(), config_.lora, session_.derived.model_path);
    log_.event(config_.train.steps, "finished", "all steps are done");
    return exit_finished;
  }

 private:
  // The whole of training. A step is: sample and score a batch, update the adapters on it, and now and then evaluate and
  // keep a checkpoint. Throws Stopped when a stop signal came.
  void loop() {
    for (;;) {
      check_stop();
      const bool due = at_.step % config_.eval.test_freq == 0 || at_.step == config_.train.steps;
      if (due && !at_.evaluated) evaluate_now();
      const bool best = config_.checkpoint.keep_best && at_.evaluated && at_.best_step == at_.step;
      if (config_.checkpoint.every > 0 && (best || at_.step % config_.checkpoint.every == 0)) save();
      if (at_.step == config_.train.steps) return;
      step();
    }
  }

  void step() {
    step_ = at_.step + 1;
    const auto t0 = Clock::now();
    Batch batch;
    within_memory(sampling_at_once(config_), [&] {
      const Span span("rollout");
      batch = collect_batch(session_, order_, step_);
    });
    const auto t1 = Clock::now();
    UpdateResult update;
    within_memory(updating_at_once(config_), [&] {
      const Span span("update");
      update = update_policy(session_, optimizer_, batch, step_);
    });
    const auto t2 = Clock::now();
    const Span span("records");
    update.metrics["actor/weight_norm"] = optimizer_.parameter_norm();
    update.metrics["actor/update_norm"] = optimizer_.distance(state_.parameters);
    check_agreement(update.metrics["actor/weight_norm"]);
    report(batch, update, {seconds(t0, t1), seconds(t1, t2), seconds(t0, Clock::now())});

    state_ = optimizer_.state();
    at_.step = step_;
    at_.evaluated = false;
    at_.data = order_.place();
    at_.coverage = coverage_.state();
  }

  std::vector<std::string> adapter_names() const {
    std::vector<std::string> names;
    for (const auto& tensor : session_.decoder->trainable()) names.push_back(tensor.name);
    return names;
  }

  // All ranks take the same steps from the same sums; different processors may round differently all the same.
  void check_agreement(double weight_norm) {
    double lowest = -weight_norm, highest = weight_norm;
    ranks_.max(&lowest, 1);
    ranks_.max(&highest, 1);
    if (-lowest != highest)
      throw std::runtime_error("the ranks' adapters have drifted apart in step " + std::to_string(step_) +
                               "; run them on machines of one type");
  }

  void evaluate_now() {
    const Span span("evaluation");
    Evaluation evaluation;
    within_memory(evaluating_at_once(config_, static_cast<std::int64_t>(session_.test.prompts.size())),
                  [&] { evaluation = evaluate(session_); });
    if (ranks_.leads()) write_evaluation(folder_, at_.step, evaluation, test_sha256_);
    const auto line = log_.metrics(at_.step, evaluation.metrics());
    if (ranks_.leads()) say(json_ ? line : "step " + std::to_string(at_.step) + " evaluation: " + summary(evaluation));
    at_.evaluated = true;
    if (evaluation.accuracy() <= at_.best_accuracy) return;
    at_.best_accuracy = evaluation.accuracy();
    at_.best_step = at_.step;
  }

  void save() {
    if (saved_ && saved_->step == at_.step && saved_->evaluated == at_.evaluated) return;
    const Span span("checkpoint");
    if (ranks_.leads()) store_.write(at_, state_, machine_, log_.sync());
    saved_ = at_;
  }

  void report(const Batch& batch, const UpdateResult& update, const StepTimes& times) {
    Metrics metrics = batch_metrics(batch, config_.rollout.max_response_length, times);
    metrics.insert(update.metrics.begin(), update.metrics.end());
    if (const auto* accelerator = session_.decoder->accelerator())
      metrics["perf/max_memory_allocated_gb"] = accelerator->peak_memory_gb();
    if (ranks_.leads()) write_samples(folder_, step_, batch);
    const auto line = log_.metrics(step_, metrics);
    if (ranks_.leads()) say(json_ ? line : step_line(step_, config_.train.steps, metrics));
    if (batch.short_of_groups)
      log_.event(step_, "groups_short",
                 std::to_string(batch.prompt_count()) + " of " + std::to_string(config_.grpo.train_batch_size) +
                     " groups have a spread of scores after " + std::to_string(batch.generation_batches) +
                     " generation batches; going on with these",
                 {{"groups", batch.prompt_count()}, {"generation_batches", batch.generation_batches}});
    if (update.without_graph > 0 && !at_.said_no_gradient) {
      at_.said_no_gradient = true;
      log_.event(step_, "no_gradient",
                 "the loss depends on no adapter, so nothing can be learned; further steps count in actor/no_gradient_updates");
    }
    const auto gap = metrics.find("training/rollout_probs_diff_max");
    if (config_.rollout.batch_invariant && gap != metrics.end() && gap->second != 0 && !said_gap_) {
      said_gap_ = true;
      log_.event(step_, "finding",
                 "rollout.batch_invariant: the sampler's probabilities differ from the trainer's by up to " +
                     json_number(gap->second).dump() + "; the run is not exactly on-policy",
                 {{"id", "not-batch-invariant"}, {"largest", gap->second}});
    }
    coverage_.add(step_, batch, update, learning_rate(config_.optimizer, step_, config_.train.steps), log_);
    findings_.add(step_, metrics, log_);
  }

  // What was done of a step in progress is lost; the checkpoint is from before it.
  ExitCode terminated() {
    save();
    log_.event(step_, "terminated", std::string("ended by ") + stop_signal() + "; the checkpoint is of step " + std::to_string(at_.step),
               {{"signal", stop_signal()}, {"checkpoint_step", at_.step}});
    if (!json_ && ranks_.leads())
      say(std::string("ended by ") + stop_signal() + " in step " + std::to_string(step_) + "; `assay-train run --resume " +
          folder_.string() + "` goes on behind step " + std::to_string(at_.step));
    ranks_.farewell();
    return exit_terminated;
  }

  ExitCode non_finite(const std::string& what) {
    const bool trained = step_ > 0;  // before that the weights themselves are to blame
    const std::string message = "step " + std::to_string(step_) + ": " + what + (trained ? "; stopped before the optimizer step" : "");
    log_.event(step_, "non_finite", message);
    if (ranks_.leads())
      std::fprintf(stderr, "%s: %s; %s\n", folder_.c_str(), message.c_str(),
                   trained ? "try a smaller optimizer.lr" : "check the model's weights");
    return exit_non_finite;
  }

  bool json_;
  fs::path folder_;
  MetricsLog& log_;
  Session session_;
  Ranks& ranks_;
  const spec::Config& config_;
  Optimizer optimizer_;
  DataOrder order_;
  CoverageWatch coverage_;
  CheckpointStore store_;
  FindingWatch findings_{config_};
  std::string test_sha256_;
  Machine machine_;
  Position at_;                    // behind the last step that is done
  OptimizerState state_;           // the adapter and the optimizer there
  std::optional<Position> saved_;  // of the last checkpoint
  bool said_gap_ = false;
  std::int64_t step_ = 0;          // in progress, or the last one done
};

// Does on every rank what may refuse; where one refuses, all do, in that one's words.
template <class F>
void agreed(Ranks& ranks, F&& action) {
  std::string refusal;
  try {
    action();
  } catch (const BadInput& error) {
    if (ranks.size() == 1) throw;
    refusal = error.what();
  }
  for (const std::string& said : ranks.gather(refusal))
    if (!said.empty()) throw BadInput(said);
}

ExitCode train_as(const std::shared_ptr<Ranks>& ranks, const fs::path& run_folder, const Inputs& inputs, const TrainOptions& options) {
  std::optional<MetricsLog> log;
  Past past;
  agreed(*ranks, [&] {
    if (!ranks->leads()) {
      log.emplace();
      return;
    }
    if (fs::exists(run_folder / "metrics.jsonl") && !options.resume)
      throw BadInput(run_folder.string() + ": it holds a run already, and a run folder is never used twice; make a new one" +
                     (fs::exists(run_folder / "checkpoints") ? ", or go on with this one: assay-train run --resume" : ""));
    // Opened first, so that a folder that cannot be written is refused before minutes of loading.
    open_log(log, run_folder);
  });
  past = past_of(run_folder);
  if (past.finished) {
    if (!options.json && ranks->leads()) say(run_folder.string() + ": the run is finished already");
    return exit_finished;
  }
  const bool gpus = inputs.config.train.device == "cuda" && ranks->size() > 1;
  if (gpus) take_own_gpu(*ranks);
  std::optional<Run> run;
  agreed(*ranks, [&] {
    Session session = open_session(inputs, options.quantizer, options.stand_in);
    session.ranks = ranks;
    if (ranks->leads())
      support::write_file_atomically(run_folder / "quant-report.json", quant_report_json(session.report));
    if (ranks->leads() && session.noise)
      support::write_file_atomically(run_folder / "noise-report.json", noise_report_json(session));
    run.emplace(run_folder, *log, std::move(session), options.json);
    if (!options.resume) return;
    if (const auto checkpoint = run->newest_checkpoint())
      run->resume(*checkpoint);
    else if (past.trained)
      throw BadInput(run_folder.string() + ": there is no checkpoint to go on from, and a run folder is never used twice; make a new one");
    else
      log->replay_from({});
  });
  if (gpus) join_gpus(*ranks, *run->accelerator());
  std::optional<Profile> profile;
  if (options.profile) profile.emplace();
  const std::int64_t before = run->steps_done();
  const ExitCode code = run->run();
  if (profile && ranks->leads()) {
    const fs::path trace = run_folder / "trace.json";
    profile->write_trace(trace);
    std::fprintf(options.json ? stderr : stdout, "%strace for chrome://tracing or ui.perfetto.dev: %s\n",
                 profile->table(run->steps_done() - before).c_str(), trace.c_str());
  }
  return code;
}

}  // namespace

ExitCode train(const fs::path& run_folder, const TrainOptions& options) {
  catch_stop_signals();
  if (!fs::is_directory(run_folder)) throw BadInput(run_folder.string() + ": there is no such run folder");
  const Inputs inputs = read_inputs(run_folder);
  const auto ranks = options.ranks ? options.ranks : std::make_shared<Ranks>();
  if (!options.ranks && inputs.config.train.ranks > 1) *ranks = Ranks::join(inputs.config.train.ranks);
  if (ranks->size() == 1) return train_as(ranks, run_folder, inputs, options);
  try {
    const ExitCode code = train_as(ranks, run_folder, inputs, options);
    ranks->leave();
    return code;
  } catch (const BadInput&) {  // said by all of them
    ranks->leave();
    if (ranks->leads()) throw;
    return exit_refused;
  } catch (const Stopped&) {   // before the training began
    ranks->farewell();
    return exit_terminated;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    std::fprintf(stderr, "assay-train: rank %d of %d: %s\n", ranks->rank(), ranks->size(), what.substr(0, what.find('\n')).c_str());
    ranks->abort(exit_fault);
    return exit_fault;
  }
}

}  // namespace assay::train
