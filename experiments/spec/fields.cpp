#include "experiments/spec/fields.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/spec/canonical.h"
#include "experiments/spec/modules.h"
#include "support/suggest.h"

namespace assay::spec {

namespace {

// The key is the member's own path, so the two cannot drift apart.
#define ASSAY_KEY(member) #member, [](Config& c) -> Slot { return &c.member; }

constexpr double infinity = std::numeric_limits<double>::infinity();

Rule any() { return {}; }
Rule path() { return {.kind = Rule::Kind::path}; }
Rule modules() { return {.kind = Rule::Kind::modules}; }
Rule one_of(Strings choices) { return {.kind = Rule::Kind::choice, .choices = std::move(choices)}; }
Rule from(double low, double high = infinity) { return {.kind = Rule::Kind::range, .low = low, .high = high}; }
// Far above any use, and low enough that sums and products of two do not overflow.
Rule count_from(double low) { return from(low, 1e9); }
Rule above(double low, double high = infinity) {
  return {.kind = Rule::Kind::range, .low = low, .high = high, .low_open = true};
}
Rule from_below(double low, double high) {
  return {.kind = Rule::Kind::range, .low = low, .high = high, .high_open = true};
}

std::vector<Field> make_fields() {
  const Strings projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  Strings modes = {""};
  for (const char* format : {"nvfp4", "mxfp4"})
    for (const std::string& mode : modes_of(format)) modes.push_back(mode);
  return {
      {ASSAY_KEY(model.path), path(), "Hugging Face folder: config.json, *.safetensors, tokenizer.json"},
      {ASSAY_KEY(model.dtype), one_of({"fp32", "bf16"}), "arithmetic: fp32, or bf16 as transformers does it, adapters in fp32 all the same"},

      {ASSAY_KEY(prompt.style), one_of({"plain", "chat"}),
       "plain: `prompt.text` as it stands; chat: the model's chat template around it"},
      {ASSAY_KEY(prompt.text), any(), "the user's turn; {question} is replaced by the problem's question"},
      {ASSAY_KEY(prompt.system), any(), "chat only: the system message; empty: the template's own"},

      {ASSAY_KEY(data.train), path(), "JSON lines with \"question\" and \"answer\"; the answer ends in `#### number`"},
      {ASSAY_KEY(data.test), path(), "the same form; the fixed validation set"},

      {ASSAY_KEY(reward.scorer), one_of({"verl", "robust", "command"}),
       "verl: bit for bit verl's strict GSM8K scorer; robust: forgives spelling, compares numbers; command: any program"},
      {ASSAY_KEY(reward.argv), any(), "command only: the program and its arguments"},
      {ASSAY_KEY(reward.timeout), above(0, 86400), "command only: seconds that one batch of completions may take"},

      {ASSAY_KEY(lora.rank), from(1, 1024), "rank of A and B"},
      {ASSAY_KEY(lora.alpha), above(0), "the adapter's output is multiplied by alpha / rank"},
      {ASSAY_KEY(lora.targets), one_of(projections), "projections that get an adapter, in every layer"},
      {ASSAY_KEY(lora.dropout), from_below(0, 1), "share of an adapter's input that an update leaves out; nowhere else"},
      {ASSAY_KEY(lora.init), one_of({"kaiming", "gaussian"}),
       "A at first: kaiming uniform, as PEFT does by default, or gaussian with deviation 1 / rank; B is zero"},

      {ASSAY_KEY(quant.format), one_of({"none", "nvfp4", "mxfp4"}), "FP4 format"},
      {ASSAY_KEY(quant.mode), one_of(modes),
       "arithmetic of the format; nvfp4: te, te46, te46_mae, torchao, torchao_one_level, ct, ct_bf16; mxfp4: floor, even, "
       "rceil, ceil; empty: the first of its format"},
      {ASSAY_KEY(quant.injection_point), one_of({"weight", "activation", "both"}), "what is quantized"},
      {ASSAY_KEY(quant.apply_during), one_of({"training", "rollout", "both"}), "when it is quantized"},
      {ASSAY_KEY(quant.hook), one_of({"pre", "post"}), "activations: a module's input (pre) or its output (post)"},
      {ASSAY_KEY(quant.blocking), one_of({"row", "column", "2d"}),
       "weights: blocks along in_features (row) or along out_features (column); nvfp4 only: tiles of 16 x 16 (2d)"},
      {ASSAY_KEY(quant.tensor_scale), one_of({"tensor", "row"}),
       "activations of nvfp4 (not torchao_one_level): one fp32 scale per tensor, or one per token"},
      {ASSAY_KEY(quant.ste), any(), "straight-through estimator behind the activation quantizer"},
      {ASSAY_KEY(quant.rounding), one_of({"nearest", "stochastic"}),
       "of weights and activations; stochastic: up or down at random, right in the mean"},
      {ASSAY_KEY(quant.hadamard), any(),
       "weights and activations go through a random Hadamard transform of size 16 before they are quantized"},
      {ASSAY_KEY(quant.non_finite), one_of({"propagate", "hw_saturate"}),
       "propagate: NaN and Inf make their block NaN; hw_saturate: they become its largest number, as on GPUs"},
      {ASSAY_KEY(quant.backward), one_of({"fp32", "fp4"}),
       "gradients that go back through quantized layers; fp4: quantized too, with a Hadamard transform and stochastic rounding"},
      {ASSAY_KEY(quant.targets), one_of(projections), "projections that are quantized"},
      {ASSAY_KEY(quant.exclude), modules(), "modules left alone: exact names, or anchored patterns written ^…$"},
      {ASSAY_KEY(quant.skip_first_layers), count_from(0), "decoder layers at the beginning that are left alone"},
      {ASSAY_KEY(quant.skip_last_layers), count_from(0), "decoder layers at the end that are left alone"},

      {ASSAY_KEY(noise.kind), one_of({"none", "aqn", "rin"}),
       "noise on the weights of RMS norms, in training steps only; aqn: of one strength; rin: of a strength for each layer"},
      {ASSAY_KEY(noise.rin), one_of({"targeted", "variable", "inverse", "ceiling", "zones"}),
       "rin only, e a layer's error in the SRDD scan: targeted: on or off; variable: times e / mean; inverse: times mean / "
       "e; ceiling: inverse, at most 1; zones: as noise.zones says"},
      {ASSAY_KEY(noise.sigma_start), above(0, 100), "strength of the first stage that has noise"},
      {ASSAY_KEY(noise.sigma_end), above(0, 100), "strength of the last stage; between them it falls by equal factors"},
      {ASSAY_KEY(noise.stages), from(2, 1e6), "stages that the training steps are split into"},
      {ASSAY_KEY(noise.schedule), one_of({"stages", "paper"}), "stages: no noise in the first stage; paper: noise from the first on"},
      {ASSAY_KEY(noise.apply_during), one_of({"training", "rollout", "both"}), "when there is noise; never in evaluations"},
      {ASSAY_KEY(noise.targets), one_of({"input_layernorm", "post_attention_layernorm", "norm"}),
       "which norms; norm, the one behind the last layer, with aqn only"},
      {ASSAY_KEY(noise.target_error), from(0, 1), "targeted: on in layers of at least this relative error; 0: their mean"},
      {ASSAY_KEY(noise.zones), any(), "zones: \"0-3: 1.5\", \"4: 1\", \"5-: 0.5\"; layers that no zone names have no noise"},
      {ASSAY_KEY(noise.scan_prompts), from(1, 1e6), "rin: training prompts that the scan at the run's start reads"},

      {ASSAY_KEY(rollout.samples_per_prompt), from(1, 4096), "the group size"},
      {ASSAY_KEY(rollout.temperature), above(0, 100), "sampling temperature of training; evaluation is greedy"},
      {ASSAY_KEY(rollout.top_k), count_from(0), "sample among the k likeliest tokens; 0: off"},
      {ASSAY_KEY(rollout.top_p), above(0, 1), "sample among the likeliest tokens that hold this probability"},
      {ASSAY_KEY(rollout.min_p), from_below(0, 1),
       "sample among tokens of at least this share of the likeliest one's probability; 0: off"},
      {ASSAY_KEY(rollout.max_prompt_length), count_from(1), "tokens; a longer prompt is an error that names its line"},
      {ASSAY_KEY(rollout.max_response_length), count_from(1), "tokens"},
      {ASSAY_KEY(rollout.batch_size), count_from(0), "sequences sampled at once; 0: all"},
      {ASSAY_KEY(rollout.batch_invariant), any(),
       "true on-policy: refuse what would make the sampler's log-probs differ from the trainer's in a single bit"},

      {ASSAY_KEY(grpo.train_batch_size), count_from(1), "prompts per step that are trained on"},
      {ASSAY_KEY(grpo.gen_batch_size), count_from(0), "prompts per generation batch; 0: train_batch_size"},
      {ASSAY_KEY(grpo.mini_batch_size), count_from(1), "prompts per optimizer update"},
      {ASSAY_KEY(grpo.micro_batch_size), count_from(0),
       "prompts per backward pass; 0: the whole mini-batch; saves memory, never changes the result"},
      {ASSAY_KEY(grpo.filter_groups), any(), "dynamic sampling: keep only groups whose scores differ"},
      {ASSAY_KEY(grpo.max_num_gen_batches), count_from(1),
       "with filter_groups: generation batches at most; then the step goes on with what there is, and says so"},
      {ASSAY_KEY(grpo.advantage), one_of({"std", "dr_grpo"}), "std: (r - mean) / (std + 1e-6); dr_grpo: r - mean"},
      {ASSAY_KEY(grpo.loss_agg),
       one_of({"token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"}),
       "how token losses become one number"},
      {ASSAY_KEY(grpo.clip_ratio_low), from_below(0, 1), "the ratio is clipped below at 1 - this"},
      {ASSAY_KEY(grpo.clip_ratio_high), from(0), "the ratio is clipped above at 1 + this"},
      {ASSAY_KEY(grpo.clip_ratio_c), above(1), "dual clip, for negative advantages"},
      {ASSAY_KEY(grpo.kl_coef), from(0, 1000), "weight of the KL penalty against the model as it was before training; 0: none"},
      {ASSAY_KEY(grpo.kl_type), one_of({"k1", "k2", "k3"}),
       "its estimate, d = log-prob - reference's: k1: d; k2: d²/2; k3: exp(-d) - 1 + d"},
      {ASSAY_KEY(grpo.entropy_coef), from(0, 1000), "weight of the entropy bonus; 0: none"},
      {ASSAY_KEY(grpo.rollout_is), one_of({"none", "token"}),
       "token: each token's policy loss is multiplied by min(exp(trainer's log-prob - sampler's), grpo.tis_cap)"},
      {ASSAY_KEY(grpo.tis_cap), above(0, 1e6), "where the importance weights are truncated"},
      {ASSAY_KEY(grpo.overlong_buffer), count_from(0),
       "tokens before max_response_length where the penalty for length starts; 0: no penalty"},
      {ASSAY_KEY(grpo.overlong_factor), from(0), "the penalty at max_response_length"},

      {ASSAY_KEY(optimizer.lr), above(0, 10), "AdamW's learning rate"},
      {ASSAY_KEY(optimizer.schedule), one_of({"constant", "linear", "cosine"}), "learning rate behind the warm-up"},
      {ASSAY_KEY(optimizer.warmup_steps), count_from(0), "training steps of linear warm-up"},
      {ASSAY_KEY(optimizer.min_lr_ratio), from(0, 1), "linear and cosine end at lr times this"},
      {ASSAY_KEY(optimizer.weight_decay), from(0, 10), "decoupled weight decay"},
      {ASSAY_KEY(optimizer.beta1), from_below(0, 1), "decay of the first moment"},
      {ASSAY_KEY(optimizer.beta2), from_below(0, 1), "decay of the second moment"},
      {ASSAY_KEY(optimizer.eps), above(0, 1), "added to the root of the second moment"},
      {ASSAY_KEY(optimizer.grad_clip), from(0), "total gradient norm that is clipped to; 0: off"},

      {ASSAY_KEY(eval.test_freq), count_from(1), "steps between evaluations; step 0 and the last step always have one"},
      {ASSAY_KEY(eval.limit), count_from(0), "first N test problems; 0: all"},
      {ASSAY_KEY(eval.batch_size), count_from(0), "sequences at once; 0: all"},
      {ASSAY_KEY(eval.quant), one_of({"as_training", "none"}), "what the accuracy is measured under"},

      {ASSAY_KEY(train.steps), count_from(1), "training steps"},
      {ASSAY_KEY(train.epochs), from(0, 1e6),
       "passes over the training problems, problems / prompts drawn a step, rounded down; above 0 they replace train.steps"},
      {ASSAY_KEY(train.parameters), one_of({"lora", "full"}), "lora: adapters on a frozen base; full: every weight"},
      {ASSAY_KEY(train.seed), from(0), "of sampling, adapters and the order of the data"},
      {ASSAY_KEY(train.threads), from(1, 1024), "worker threads; part of what makes a run reproducible"},
      {ASSAY_KEY(train.ranks), from(1, 4096), "processes that share a step's prompts, over MPI; each has train.threads threads, and a GPU where train.device is cuda"},
      {ASSAY_KEY(train.device), one_of({"cpu", "cuda"}), "where the run computes; cuda: the first GPU that it is given (docs/cuda.md)"},
      {ASSAY_KEY(train.memory), one_of({"fast", "lean"}),
       "lean: each frozen weight kept in one form, a third of the memory and the same numbers, each backward somewhat slower"},

      {ASSAY_KEY(checkpoint.every), count_from(0),
       "training steps between checkpoints, step 0 included; 0: only when a signal ends the run"},
      {ASSAY_KEY(checkpoint.keep_last), count_from(1), "the newest checkpoints that are kept"},
      {ASSAY_KEY(checkpoint.keep_best), any(), "write and keep the one with the highest accuracy too"},

      {ASSAY_KEY(trainer.kind), one_of({"embedded", "command"}), "embedded: assay-train; command: any other program"},
      {ASSAY_KEY(trainer.argv), any(), "command only: the program and its arguments; {run_dir}, {config}, {seed}, {quant.format} and any other key"},
      {ASSAY_KEY(trainer.metrics), one_of({"jsonl", "verl", "trl", "regex"}),
       "command only: metrics from metrics.jsonl, or from the console as verl or trl print them, or by metrics_regex"},
      {ASSAY_KEY(trainer.metrics_regex), any(),
       "regex only: PCRE with named groups step, key, value, or one group per key (__ in its name stands for /)"},

      {ASSAY_KEY(schedule.executor), one_of({"local", "slurm"}),
       "who carries the run out; local: this machine; slurm: a cluster, by sbatch"},
      {ASSAY_KEY(schedule.slurm_options), any(), "slurm only: further options of sbatch, such as \"--partition=gpu\""},
      {ASSAY_KEY(schedule.group), any(), "group whose runs are limited together (`assay group`); empty: none"},
      {ASSAY_KEY(schedule.memory), count_from(0), "MiB of memory that the run is given; 0: not counted"},
      {ASSAY_KEY(schedule.gpus), from(0, 1024), "GPUs that the run is given; train.device = \"cuda\" takes one for each rank at least"},
      {ASSAY_KEY(schedule.time_limit), from(0), "seconds after which a run is ended; 0: never"},
      {ASSAY_KEY(schedule.stall_timeout), from(0), "seconds without a new metrics line; 0: never"},
      {ASSAY_KEY(schedule.retry.infrastructure), from(0, 1000),
       "times it is started again after a fault of the machine: lost, killed from outside, the trainer's exit code 1"},
      {ASSAY_KEY(schedule.retry.stalled), from(0, 1000), "times it is started again after it stalled"},
      {ASSAY_KEY(schedule.retry.code), from(0, 1000), "times it is started again after any other failure"},
      {ASSAY_KEY(schedule.retry.backoff), from(0, 1e9), "seconds before the first retry; doubled with each"},
      {ASSAY_KEY(schedule.retry.backoff_max), from(0, 1e9), "seconds before a retry at most"},
  };
}
#undef ASSAY_KEY

struct Missing {
  std::string_view key;    // a whole key, or a section followed by ".*"
  std::string_view value;  // JSON text; empty: the key itself is missing
  std::string_view why;
};

// Known to the reader, not to the trainer; `why` says what happens instead. An entry goes when the thing is built.
constexpr std::array missing = std::to_array<Missing>({
    {"quant.smooth", "", "activations are not smoothed"},
    {"quant.kv_cache", "", "the key/value cache is not quantized"},
    {"quant.format", "\"fp8\"", "the formats are nvfp4 and mxfp4"},
    {"quant.format", "\"int4\"", "the formats are nvfp4 and mxfp4"},
    {"model.dtype", "\"fp16\"", "the arithmetics are fp32 and bf16"},
    {"optimizer.kind", "", "the optimizer is AdamW"},
});

bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string number_text(double value) {
  if (std::isfinite(value) && std::floor(value) == value && std::fabs(value) < 1e15)
    return std::to_string(static_cast<std::int64_t>(value));
  return nlohmann::json(value).dump();
}

std::string list(const Strings& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + quoted(word);
  return text;
}

bool in_range(const Rule& rule, double x) {
  return std::isfinite(x) && (rule.low_open ? x > rule.low : x >= rule.low) &&
         (rule.high_open ? x < rule.high : x <= rule.high);
}

std::string range_text(const Rule& rule) {
  const bool bounded = std::isfinite(rule.high);
  if (!std::isfinite(rule.low)) return "";
  if (!bounded) return (rule.low_open ? " above " : " of at least ") + number_text(rule.low);
  const std::string high = (rule.high_open ? "below " : "") + number_text(rule.high);
  return rule.low_open ? " above " + number_text(rule.low) + ", at most " + high
                       : " from " + number_text(rule.low) + " to " + high;
}

Config& defaults() {
  static Config config;
  return config;
}

Slot default_slot(const Field& field) { return field.slot(defaults()); }

// What is wrong with a value of the right type; empty: nothing.
std::string breach(const Field& field, const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value); text && !is_utf8(*text)) return "the text is not UTF-8";
  if (const auto* texts = std::get_if<Strings>(&value); texts && !std::all_of(texts->begin(), texts->end(), is_utf8))
    return "the text is not UTF-8";
  const Rule& rule = field.rule;
  switch (rule.kind) {
    case Rule::Kind::any: break;
    case Rule::Kind::path:
      if (std::get<std::string>(value).find('\0') != std::string::npos) return "a path cannot hold a NUL character";
      break;
    case Rule::Kind::range: {
      const auto* integer = std::get_if<std::int64_t>(&value);
      const double x = integer ? static_cast<double>(*integer) : std::get<double>(value);
      if (!in_range(rule, x)) return "wanted " + field.expected() + ", got " + describe(value);
      break;
    }
    case Rule::Kind::choice: {
      const auto* one = std::get_if<std::string>(&value);
      const Strings& words = one ? Strings{*one} : std::get<Strings>(value);
      if (words.empty()) return "wanted " + field.expected() + ", got an empty list";
      for (std::size_t i = 0; i < words.size(); ++i) {
        if (std::find(rule.choices.begin(), rule.choices.end(), words[i]) == rule.choices.end())
          return "unknown value " + quoted(words[i]) + "; wanted " + field.expected() +
                 support::did_you_mean(words[i], rule.choices);
        if (std::find(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(i), words[i]) !=
            words.begin() + static_cast<std::ptrdiff_t>(i))
          return quoted(words[i]) + " stands in the list twice";
      }
      break;
    }
    case Rule::Kind::modules:
      for (const std::string& entry : std::get<Strings>(value))
        if (const std::string wrong = ModulePattern::fault(entry); !wrong.empty()) return quoted(entry) + ": " + wrong;
      break;
  }
  return "";
}

}  // namespace

Value Field::get(const Config& config) const {
  return std::visit([](const auto* at) -> Value { return *at; }, slot(const_cast<Config&>(config)));
}

void Field::set(Config& config, const Value& value) const {
  std::visit([&](auto* at) { *at = std::get<std::decay_t<decltype(*at)>>(value); }, slot(config));
}

std::string Field::expected() const {
  const Slot type = default_slot(*this);
  const bool is_list = std::holds_alternative<Strings*>(type);
  if (rule.kind == Rule::Kind::choice) {
    Strings named = rule.choices;
    std::erase(named, "");
    if (is_list) return "a list of " + list(named);
    return (named.size() == 1 ? "" : "one of ") + list(named);
  }
  if (rule.kind == Rule::Kind::modules) return "a list of exact module names or patterns written \"^…$\"";
  if (rule.kind == Rule::Kind::path) return "a path in quotes";
  if (is_list) return "a list of strings";
  if (std::holds_alternative<bool*>(type)) return "true or false";
  if (std::holds_alternative<std::string*>(type)) return "a string in quotes";
  return (std::holds_alternative<std::int64_t*>(type) ? "an integer" : "a number") + range_text(rule);
}

const std::vector<Field>& fields() {
  static const std::vector<Field> table = make_fields();
  return table;
}

const Field* find_field(std::string_view key) {
  for (const Field& field : fields())
    if (field.key == key) return &field;
  return nullptr;
}

Strings field_keys() {
  Strings keys;
  for (const Field& field : fields()) keys.emplace_back(field.key);
  return keys;
}

Strings section_names() {
  Strings names;
  for (const Field& field : fields()) {
    std::string name(field.key.substr(0, field.key.find('.')));
    if (names.empty() || names.back() != name) names.push_back(std::move(name));
  }
  return names;
}

std::variant<Value, Refusal> accept(const Field& field, const Value& value) {
  Value taken = value;
  const Slot type = default_slot(field);
  if (std::holds_alternative<double*>(type)) {
    if (const auto* integer = std::get_if<std::int64_t>(&value)) taken = static_cast<double>(*integer);
    // One zero: -0.0 would give the same config another hash.
    if (auto* number = std::get_if<double>(&taken); number && *number == 0) *number = 0;
  }
  // An empty list has no element type to be wrong about; the alternatives of Slot and Value are in one order.
  if (taken.index() != type.index())
    return Refusal{"wanted " + field.expected() + ", got " + describe(value)};
  if (const std::string wrong = breach(field, taken); !wrong.empty()) return Refusal{wrong};
  return taken;
}

std::string describe(const Value& value) {
  struct {
    std::string operator()(bool x) const { return x ? "true" : "false"; }
    std::string operator()(std::int64_t x) const { return "the integer " + std::to_string(x); }
    std::string operator()(double x) const {
      if (std::isnan(x)) return "nan";
      if (std::isinf(x)) return x > 0 ? "inf" : "-inf";
      return "the number " + nlohmann::json(x).dump();
    }
    std::string operator()(const std::string& x) const { return "the string " + quoted(x); }
    std::string operator()(const Strings& x) const { return x.empty() ? "an empty list" : "the list [" + list(x) + "]"; }
  } words;
  return std::visit(words, value);
}

std::string as_json(const Value& value) {
  return std::visit([](const auto& x) {
    return nlohmann::json(x).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }, value);
}

std::optional<std::string> not_implemented_key(std::string_view key) {
  for (const Missing& entry : missing) {
    if (!entry.value.empty()) continue;
    const bool whole_section = entry.key.ends_with(".*");
    const std::string_view section = entry.key.substr(0, entry.key.size() - 2);
    if (whole_section ? key == section || (key.starts_with(section) && key[section.size()] == '.') : key == entry.key)
      return "'" + std::string(key) + "' is known but not implemented yet: " + std::string(entry.why);
  }
  return std::nullopt;
}

std::optional<std::string> not_implemented_value(std::string_view key, const Value& value) {
  const std::string text = as_json(value);
  for (const Missing& entry : missing)
    if (entry.key == key && !entry.value.empty() && entry.value == text)
      return std::string(key) + " = " + text + " is known but not implemented yet: " + std::string(entry.why);
  return std::nullopt;
}

}  // namespace assay::spec
