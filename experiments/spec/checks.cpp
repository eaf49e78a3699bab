#include "experiments/spec/checks.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

#include "experiments/spec/canonical.h"
#include "experiments/spec/fields.h"
#include "experiments/spec/modules.h"
#include "experiments/spec/zones.h"
#include "support/suggest.h"

namespace assay::spec {

namespace {

class Checker {
 public:
  Checker(const Settled& settled, const Mark& run, std::int64_t layers, Diagnostics& wrong)
      : settled_(settled), c_(settled.config), run_(run), layers_(layers), wrong_(wrong) {}

  void all() {
    inputs();
    prompt();
    scorer();
    quantizer();
    parameters();
    noise();
    batches();
  }

 private:
  // Nothing is said about keys whose own value was refused: that was reported, and the rest would be a guess.
  void refuse_if(bool bad, std::initializer_list<std::string_view> keys, const std::string& message) {
    if (!bad) return;
    const Mark* last = nullptr;
    for (const std::string_view key : keys) {
      if (settled_.unknown.contains(key)) return;
      const auto mark = settled_.marks.find(key);
      if (mark != settled_.marks.end() && (!last || mark->second.layer > last->layer)) last = &mark->second;
    }
    wrong_.push_back(at(last ? *last : run_, message));
  }

  void inputs() {
    if (c_.trainer.kind == "command") {
      refuse_if(c_.trainer.argv.empty(), {"trainer.kind", "trainer.argv"},
                "trainer.kind = \"command\" needs trainer.argv, the program and its arguments");
      places();
      const std::string& metrics = c_.trainer.metrics;
      refuse_if(metrics == "regex" && c_.trainer.metrics_regex.empty(), {"trainer.metrics"},
                "trainer.metrics = \"regex\" needs trainer.metrics_regex, a pattern with named groups");
      refuse_if(metrics != "regex" && !c_.trainer.metrics_regex.empty(), {"trainer.metrics_regex", "trainer.metrics"},
                "trainer.metrics_regex belongs to trainer.metrics = \"regex\"");
      return;
    }
    refuse_if(c_.trainer.metrics != "jsonl" || !c_.trainer.metrics_regex.empty(),
              {"trainer.metrics", "trainer.metrics_regex", "trainer.kind"},
              "trainer.metrics and trainer.metrics_regex belong to trainer.kind = \"command\"; assay-train writes "
              "metrics.jsonl");
    refuse_if(!c_.trainer.argv.empty(), {"trainer.argv", "trainer.kind"},
              "trainer.argv belongs to trainer.kind = \"command\"");
    refuse_if(c_.model.path.empty(), {"model.path"}, "model.path is missing: the Hugging Face folder of the model");
    refuse_if(c_.data.train.empty(), {"data.train"}, "data.train is missing: a file of JSON lines to train on");
    refuse_if(c_.data.test.empty(), {"data.test"}, "data.test is missing: a file of JSON lines to evaluate on");
  }

  // {section.key} in the arguments: whatever looks like a key must be one. Other braces are the program's own.
  void places() {
    for (const std::string& word : c_.trainer.argv)
      for (std::size_t at = word.find('{'); at != std::string::npos; at = word.find('{', at + 1)) {
        const std::size_t end = word.find('}', at);
        if (end == std::string::npos) break;
        const std::string key = word.substr(at + 1, end - at - 1);
        const std::size_t dot = key.find('.');
        const bool like_a_key = dot != std::string::npos && dot > 0 && dot + 1 < key.size() &&
                                key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.") == std::string::npos;
        if (like_a_key && !find_field(key))   // what was meant is looked for only then: it takes longer than all other checks
          refuse_if(true, {"trainer.argv"},
                    "trainer.argv: '{" + key + "}' names no key" + support::did_you_mean(key, field_keys()));
      }
  }

  void prompt() {
    refuse_if(c_.prompt.text.find("{question}") == std::string::npos, {"prompt.text"},
              "prompt.text has no {question}: every problem would get the same prompt");
    refuse_if(c_.prompt.style == "plain" && !c_.prompt.system.empty(), {"prompt.system", "prompt.style"},
              "prompt.system belongs to prompt.style = \"chat\"");
  }

  void scorer() {
    if (c_.trainer.kind == "command") return;
    refuse_if(c_.reward.scorer == "command" && c_.reward.argv.empty(), {"reward.scorer", "reward.argv"},
              "reward.scorer = \"command\" needs reward.argv, the program and its arguments");
    refuse_if(c_.reward.scorer != "command" && !c_.reward.argv.empty(), {"reward.argv", "reward.scorer"},
              "reward.argv belongs to reward.scorer = \"command\"");
  }

  void parameters() {
    refuse_if(c_.train.parameters == "full" && c_.lora.dropout > 0, {"lora.dropout", "train.parameters"},
              "lora.dropout belongs to train.parameters = \"lora\"; with \"full\" there is no adapter");
    refuse_if(c_.rollout.batch_invariant && c_.lora.dropout > 0, {"rollout.batch_invariant", "lora.dropout"},
              "rollout.batch_invariant: lora.dropout is in the update and not in the sampler; set it to 0");
    refuse_if(c_.train.parameters == "full" && c_.model.dtype == "bf16", {"model.dtype", "train.parameters"},
              "model.dtype = \"bf16\" rounds the weights, which would swallow most updates; train.parameters = \"full\" needs \"fp32\"");
    const OptimizerConfig& o = c_.optimizer;
    refuse_if(o.schedule == "constant" && o.min_lr_ratio > 0, {"optimizer.min_lr_ratio", "optimizer.schedule"},
              "optimizer.min_lr_ratio belongs to optimizer.schedule = \"linear\" or \"cosine\"");
  }

  void noise() {
    const NoiseConfig& n = c_.noise;
    refuse_if(c_.rollout.batch_invariant && n.kind != "none" && n.apply_during != "both",
              {"rollout.batch_invariant", "noise.apply_during", "noise.kind"},
              "rollout.batch_invariant: noise.apply_during = \"" + n.apply_during +
                  "\" samples from another model than it trains; set it to \"both\"");
    const bool zones = n.kind == "rin" && n.rin == "zones";
    refuse_if(n.kind == "rin" && !zones && (c_.quant.format == "none" || c_.quant.injection_point == "weight"),
              {"noise.kind", "noise.rin", "quant.format", "quant.injection_point"},
              "noise.kind = \"rin\" goes by the error of quantized activations, and there are none; use \"aqn\", or noise.rin = \"zones\"");
    refuse_if(n.kind == "rin" && std::find(n.targets.begin(), n.targets.end(), "norm") != n.targets.end(),
              {"noise.targets", "noise.kind"},
              "noise.targets: \"norm\" belongs to no layer, so noise.kind = \"rin\" has no strength for it; use \"aqn\", or leave it out");
    refuse_if(zones && n.zones.empty(), {"noise.rin", "noise.zones"},
              "noise.rin = \"zones\" needs noise.zones, such as [\"0-3: 1.5\", \"4-: 0.5\"]");
    refuse_if(!zones && !n.zones.empty(), {"noise.zones", "noise.rin", "noise.kind"},
              "noise.zones belongs to noise.kind = \"rin\" and noise.rin = \"zones\"");
    refuse_if(n.target_error > 0 && (n.kind != "rin" || n.rin != "targeted"), {"noise.target_error", "noise.rin", "noise.kind"},
              "noise.target_error belongs to noise.kind = \"rin\" and noise.rin = \"targeted\"");
    std::string fault;
    if (layers_ < 0)
      for (const std::string& zone : n.zones) {
        if (fault.empty()) parse_zone(zone, fault);
      }
    else if (zones)
      zone_multipliers(n.zones, layers_, fault);
    refuse_if(!fault.empty(), {"noise.zones"}, fault);
  }

  void quantizer() {
    const QuantConfig& q = c_.quant;
    if (q.format == "none") return;
    const std::string mode = q.mode.empty() ? default_mode(q.format) : q.mode;
    std::string wanted;
    bool fits = false;
    for (const std::string& one : modes_of(q.format)) {
      wanted += (wanted.empty() ? "\"" : ", \"") + one + "\"";
      fits = fits || one == mode;
    }
    refuse_if(!fits, {"quant.mode", "quant.format"},
              "quant.mode = \"" + mode + "\" is no mode of " + q.format + "; wanted one of " + wanted);
    refuse_if(fits && q.tensor_scale == "row" && !has_tensor_scale(mode), {"quant.tensor_scale", "quant.mode", "quant.format"},
              "quant.tensor_scale = \"row\" needs a mode with a tensor scale; " + q.format + "/" + mode + " has none");
    const bool weights = q.injection_point != "activation", te46 = mode.starts_with("te46");
    refuse_if(te46 && q.rounding == "stochastic", {"quant.rounding", "quant.mode", "quant.format"},
              "quant.rounding = \"stochastic\" does not go with quant.mode = \"" + mode +
                  "\", which compares the errors of rounding to nearest; use mode \"te\", or \"nearest\"");
    refuse_if(te46 && q.backward == "fp4", {"quant.backward", "quant.mode", "quant.format"},
              "quant.backward = \"fp4\" rounds stochastically, and quant.mode = \"" + mode +
                  "\" compares the errors of rounding to nearest; use mode \"te\", or \"fp32\"");
    refuse_if(q.backward == "fp4" && q.apply_during == "rollout", {"quant.backward", "quant.apply_during"},
              "quant.backward = \"fp4\" belongs to layers that are quantized in training; quant.apply_during = \"rollout\" "
              "leaves none");
    refuse_if(q.blocking == "2d" && q.format == "mxfp4" && weights, {"quant.blocking", "quant.format"},
              "quant.blocking = \"2d\" is nvfp4's, whose blocks have 16 elements; mxfp4 takes \"row\" or \"column\"");
    refuse_if(q.hadamard && q.blocking == "column" && weights, {"quant.hadamard", "quant.blocking"},
              "quant.hadamard turns weights along in_features, and with quant.blocking = \"column\" their blocks lie across "
              "that; set quant.blocking to \"row\" or \"2d\"");
    if (c_.rollout.batch_invariant) {
      refuse_if(q.rounding == "stochastic" && q.injection_point != "weight",
                {"rollout.batch_invariant", "quant.rounding", "quant.injection_point"},
                "rollout.batch_invariant: quant.rounding = \"stochastic\" draws other numbers for a token when it is sampled "
                "than when it is trained on; set it to \"nearest\"");
      refuse_if(fits && q.injection_point != "weight" && q.tensor_scale == "tensor" && has_tensor_scale(mode),
                {"rollout.batch_invariant", "quant.tensor_scale", "quant.mode", "quant.format", "quant.injection_point"},
                "rollout.batch_invariant: with one activation scale a tensor a token's value depends on its batch; set "
                "quant.tensor_scale = \"row\"");
      refuse_if(q.apply_during != "both", {"rollout.batch_invariant", "quant.apply_during"},
                "rollout.batch_invariant: quant.apply_during = \"" + q.apply_during +
                    "\" samples from another model than it trains; set it to \"both\"");
    }
    refuse_if(layers_ >= 0 && q.skip_first_layers + q.skip_last_layers >= layers_,
              {"quant.skip_first_layers", "quant.skip_last_layers"},
              "nothing is quantized: quant.skip_first_layers and quant.skip_last_layers leave none of the model's " +
                  std::to_string(layers_) + " layers");
    if (layers_ < 0 || q.skip_first_layers + q.skip_last_layers >= layers_ || settled_.unknown.contains("quant.exclude") || settled_.unknown.contains("lora.targets")) return;
    try {
      for (const std::string& entry : idle_exclusions(q, c_.lora, layers_))
        refuse_if(true, {"quant.exclude"},
                  "quant.exclude: \"" + entry + "\" matches no module of this model; modules are named like " +
                      module_name(0, "q_proj") + " and " + module_name(layers_ - 1, "down_proj") + ".base_layer");
      refuse_if(quantized_modules(q, c_.lora, layers_).empty(), {"quant.exclude", "quant.targets", "quant.format"},
                "nothing is quantized: quant.exclude leaves no module of quant.targets");
    } catch (const std::runtime_error& slow_pattern) {
      refuse_if(true, {"quant.exclude"}, slow_pattern.what());
    }
  }

  void batches() {
    const GrpoConfig& g = c_.grpo;
    const auto text = [](std::int64_t n) { return std::to_string(n); };
    refuse_if(g.mini_batch_size > g.train_batch_size, {"grpo.mini_batch_size", "grpo.train_batch_size"},
              "grpo.mini_batch_size (" + text(g.mini_batch_size) + ") is larger than grpo.train_batch_size (" +
                  text(g.train_batch_size) + ")");
    refuse_if(g.micro_batch_size > g.mini_batch_size, {"grpo.micro_batch_size", "grpo.mini_batch_size"},
              "grpo.micro_batch_size (" + text(g.micro_batch_size) + ") is larger than grpo.mini_batch_size (" +
                  text(g.mini_batch_size) + ")");
    const bool other_batch = g.gen_batch_size != 0 && g.gen_batch_size != g.train_batch_size;
    refuse_if(other_batch && !g.filter_groups, {"grpo.gen_batch_size", "grpo.filter_groups"},
              "grpo.gen_batch_size (" + text(g.gen_batch_size) +
                  ") is drawn for grpo.filter_groups = true, which is off; leave it out, or filter");
    const std::int64_t drawn = g.gen_batch_size ? g.gen_batch_size : g.train_batch_size;
    refuse_if(g.filter_groups && drawn < (g.train_batch_size + g.max_num_gen_batches - 1) / g.max_num_gen_batches,
              {"grpo.gen_batch_size", "grpo.max_num_gen_batches", "grpo.train_batch_size", "grpo.filter_groups"},
              text(g.max_num_gen_batches) + " generation batches of " + text(drawn) +
                  " prompts can never fill grpo.train_batch_size (" + text(g.train_batch_size) + ")");
    refuse_if(g.filter_groups && c_.rollout.samples_per_prompt == 1,
              {"grpo.filter_groups", "rollout.samples_per_prompt"},
              "grpo.filter_groups keeps groups whose scores differ, and a group of one sample has one score");
    refuse_if(g.overlong_buffer > c_.rollout.max_response_length,
              {"grpo.overlong_buffer", "rollout.max_response_length"},
              "grpo.overlong_buffer (" + text(g.overlong_buffer) + ") is longer than rollout.max_response_length (" +
                  text(c_.rollout.max_response_length) + ")");
  }

  const Settled& settled_;
  const Config& c_;
  const Mark& run_;
  std::int64_t layers_;
  Diagnostics& wrong_;
};

}  // namespace

void check_config(const Settled& settled, const Mark& run, std::int64_t layers, Diagnostics& wrong) {
  Checker(settled, run, layers, wrong).all();
}

}  // namespace assay::spec
