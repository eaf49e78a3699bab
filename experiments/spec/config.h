// The configuration of one run: typed, one struct per module, frozen before the run starts.
//
// A Config is only ever made by the series reader (series.h) or from canonical JSON that the reader wrote, so code
// that holds one may rely on every field being in range. Key names in TOML and JSON are the member names:
// `quant.ste`, `grpo.train_batch_size`. Paths are kept as written; Derived holds them resolved.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace assay::spec {

struct ModelConfig {
  std::string path;             // Hugging Face folder: config.json, *.safetensors, tokenizer.json
  std::string dtype = "fp32";   // arithmetic: fp32 | bf16
};

struct PromptConfig {
  std::string style = "plain";            // plain: `template` as it stands; chat: the model's chat template around it
  std::string text = "{question}\n";      // {question} is replaced by the problem's question
  std::string system;                     // chat only: system message; empty: none given
};

struct DataConfig {
  std::string train;            // JSON lines with "question" and "answer"; the answer ends in `#### number`
  std::string test;             // same form; the fixed validation set
};

struct RewardConfig {
  std::string scorer = "verl";  // verl | robust | command
  std::vector<std::string> argv;  // command only: the program and its arguments
  double timeout = 60;          // command only: seconds that one batch of completions may take
};

struct LoraConfig {
  std::int64_t rank = 16;       // 1..1024
  double alpha = 32;            // the adapter's output is multiplied by alpha / rank
  std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  double dropout = 0;           // [0, 1): of the adapter's input, in updates only
  std::string init = "kaiming"; // A: kaiming (uniform, PEFT's default) | gaussian (std 1 / rank); B starts at zero
};

// What is quantized, where and when. See docs/quantization.md for the words.
struct QuantConfig {
  std::string format = "none";            // none | nvfp4 | mxfp4
  std::string mode;                       // nvfp4: te (default) ...; mxfp4: floor (default) ...; empty: the default
  std::string injection_point = "both";   // weight | activation | both
  std::string apply_during = "both";      // training | rollout | both
  std::string hook = "pre";               // pre: a module's input; post: its output
  std::string blocking = "row";           // weights: row = along in_features, column = along out_features, 2d = 16x16 tiles
  std::string tensor_scale = "tensor";    // activations: tensor | row (one fp32 scale per token)
  bool ste = true;                        // straight-through estimator behind the activation quantizer
  std::string rounding = "nearest";       // of weights and activations: nearest (ties to even) | stochastic
  bool hadamard = false;                  // both are rotated, 16 elements at a time, before they are quantized
  std::string non_finite = "propagate";   // NaN and Inf: propagate | hw_saturate
  std::string backward = "fp32";          // gradients of quantized layers: fp32 | fp4 (stochastic rounding, rotated)
  std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  std::vector<std::string> exclude;       // exact module names, or anchored patterns written ^…$
  std::int64_t skip_first_layers = 0;     // decoder layers at the beginning and at the end that are left alone
  std::int64_t skip_last_layers = 0;
};

// Noise on the weights of RMS norms, in training steps only (docs/noise.md).
struct NoiseConfig {
  std::string kind = "none";              // none | aqn: one strength for all layers | rin: by layer, from an SRDD scan
  std::string rin = "targeted";           // targeted | variable | inverse | ceiling | zones
  double sigma_start = 0.01, sigma_end = 0.0001;
  std::int64_t stages = 10;               // K
  std::string schedule = "stages";        // stages: no noise in the first | paper: noise from the first on
  std::string apply_during = "rollout";   // training | rollout | both
  std::vector<std::string> targets = {"input_layernorm", "post_attention_layernorm"};  // and norm, the final one
  double target_error = 0;                // targeted: layers of at least this relative error; 0: their mean
  std::vector<std::string> zones;         // zones: "0-3: 1.5", a multiplier for layers; others have none
  std::int64_t scan_prompts = 16;         // training prompts that the scan at the run's start reads
};

struct RolloutConfig {
  std::int64_t samples_per_prompt = 8;    // G, the group size
  double temperature = 1.0;               // > 0
  std::int64_t top_k = 0;                 // 0: off
  double top_p = 1.0;                     // (0, 1]
  double min_p = 0;                       // [0, 1): share of the likeliest token's probability; 0: off
  std::int64_t max_prompt_length = 1024;  // tokens; a longer prompt is an error of the data, named by line
  std::int64_t max_response_length = 1024;
  std::int64_t batch_size = 0;            // sequences sampled at once; 0: all
  bool batch_invariant = false;           // refuse what would make the sampler's log-probs other than the trainer's
};

struct GrpoConfig {
  std::int64_t train_batch_size = 128;    // prompts per step that are trained on
  std::int64_t gen_batch_size = 0;        // prompts per generation batch; 0: train_batch_size
  std::int64_t mini_batch_size = 32;      // prompts per optimizer update
  std::int64_t micro_batch_size = 0;      // prompts per backward; 0: the whole mini-batch; never changes the result
  bool filter_groups = false;             // dynamic sampling: keep only groups whose score spread is > 0
  std::int64_t max_num_gen_batches = 5;   // with filter_groups: then go on with what there is, and say so
  std::string advantage = "std";          // std: (r - mean) / (std + 1e-6); dr_grpo: r - mean
  std::string loss_agg = "token-mean";    // token-mean | seq-mean-token-sum | seq-mean-token-mean | seq-mean-token-sum-norm
  double clip_ratio_low = 0.2;
  double clip_ratio_high = 0.2;
  double clip_ratio_c = 3.0;              // dual clip, for negative advantages
  double kl_coef = 0;                     // weight of the KL penalty against the base model; 0: none
  std::string kl_type = "k3";             // k1 | k2 | k3
  double entropy_coef = 0;                // weight of the entropy bonus
  std::string rollout_is = "none";        // none | token: truncated importance weights, training over sampler
  double tis_cap = 2.0;                   // where they are truncated
  std::int64_t overlong_buffer = 0;       // tokens before max_response_length where the penalty starts; 0: off
  double overlong_factor = 0.5;
};

struct OptimizerConfig {                  // AdamW
  double lr = 1e-5;
  std::string schedule = "constant";      // constant | linear | cosine, behind the warm-up
  std::int64_t warmup_steps = 0;          // linear, counted in training steps as verl does
  double min_lr_ratio = 0;                // linear and cosine end at lr * this
  double weight_decay = 0.0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double grad_clip = 1.0;                 // total norm; 0: off
};

struct EvalConfig {
  std::int64_t test_freq = 20;            // steps; step 0 and the last step are always evaluated
  std::int64_t limit = 0;                 // first N test problems; 0: all
  std::int64_t batch_size = 0;            // sequences at once; 0: all
  std::string quant = "as_training";      // as_training | none: what the accuracy is measured under
};

struct TrainConfig {
  std::int64_t steps = 20;
  std::int64_t epochs = 0;                // passes over the training problems; above 0 they decide, not `steps`
  std::string parameters = "lora";        // lora: adapters on a frozen base | full: every weight
  std::int64_t seed = 1;
  std::int64_t threads = 1;               // of each rank; part of what makes a run reproducible
  std::int64_t ranks = 1;                 // processes that share a step's prompts, over MPI
  std::string device = "cpu";             // cpu | cuda
  std::string memory = "fast";            // fast | lean: one form of each frozen weight; the same numbers
};

// What `assay-train run --resume` goes on from (docs/run-folder.md). A run that is ended by SIGTERM or SIGINT writes one in
// any case.
struct CheckpointConfig {
  std::int64_t every = 5;                 // training steps, from step 0 on; 0: none but at a signal
  std::int64_t keep_last = 2;             // of those written, the newest stay
  bool keep_best = true;                  // and the one with the highest accuracy
};

// Who runs it. `embedded` is assay-train. `command` starts any program: argv may hold {run_dir}, {config}, {seed} and
// any key of this Config, as {quant.format}.
struct TrainerConfig {
  std::string kind = "embedded";          // embedded | command
  std::vector<std::string> argv;
  std::string metrics = "jsonl";          // command: jsonl (it writes metrics.jsonl) | verl | trl | regex (its console)
  std::string metrics_regex;              // regex only: named groups step, key, value, or one group per key
};

// How often a run is started again after an end that is not a success, by kind of end.
struct RetryConfig {
  std::int64_t infrastructure = 0;        // the machine's fault: lost, SIGKILL or SIGBUS from outside, the trainer's code 1
  std::int64_t stalled = 0;               // ended by the watchdog
  std::int64_t code = 0;                  // any other failure
  double backoff = 30;                    // seconds before the first retry; doubles with each
  double backoff_max = 3600;              // seconds at most
};

struct ScheduleConfig {
  std::string executor = "local";         // local | slurm
  std::vector<std::string> slurm_options; // slurm only: further options of sbatch, such as --partition=gpu
  std::string group;                      // "": none; `assay group` sets how many runs of a group go at once
  std::int64_t memory = 0;                // MiB that it is given; 0: not counted
  std::int64_t gpus = 0;                  // whole GPUs; train.device = "cuda" takes one at least
  double time_limit = 0;                  // seconds; 0: none
  double stall_timeout = 600;             // seconds without a new metrics line; 0: never
  RetryConfig retry;
};

struct Config {
  ModelConfig model;
  PromptConfig prompt;
  DataConfig data;
  RewardConfig reward;
  LoraConfig lora;
  QuantConfig quant;
  NoiseConfig noise;
  RolloutConfig rollout;
  GrpoConfig grpo;
  OptimizerConfig optimizer;
  EvalConfig eval;
  TrainConfig train;
  CheckpointConfig checkpoint;
  TrainerConfig trainer;
  ScheduleConfig schedule;
};

// What follows from a Config and the files it names; stored beside it, never inside it.
// Counts are -1 where the model folder is not there to be read.
struct Derived {
  std::string model_path, train_path, test_path;  // absolute
  std::int64_t layers = -1;
  std::int64_t quantized_modules = -1;            // modules whose forward gets a quantizer: wrapper and base_layer count as two
  std::int64_t quantized_projections = -1;        // distinct projections among them
  std::int64_t adapter_tensors = -1;              // A and B of every LoRA target
  std::int64_t updates_per_step = 0;              // train_batch_size / mini_batch_size, rounded up
  std::int64_t total_steps = -1;                  // train.steps, or what train.epochs comes to; -1: the data is not there
};

}  // namespace assay::spec
