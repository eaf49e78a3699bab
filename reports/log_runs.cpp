// One record per run: what was tried, what was changed, what came of it, and how to do it again.
#include <algorithm>

#include "reports/log_parts.h"
#include "reports/text.h"

namespace assay::report {
namespace {

// The steps of a curve that a reader wants: first, last, and a few between.
std::vector<std::pair<std::int64_t, double>> thinned(const std::vector<std::pair<std::int64_t, double>>& curve) {
  constexpr std::size_t kMost = 11;
  if (curve.size() <= kMost) return curve;
  std::vector<std::pair<std::int64_t, double>> few;
  for (std::size_t i = 0; i < kMost; ++i) few.push_back(curve[i * (curve.size() - 1) / (kMost - 1)]);
  return few;
}

Line progression(const LoggedRun& run) {
  Line line = {strong("Training score: ")};
  bool first = true;
  for (const auto& [step, share] : thinned(run.scores)) {
    line.push_back(text((first ? "" : ", ") + std::string("step ") + std::to_string(step) + " "));
    line.push_back(number(fixed(100 * share, 1) + " %", {{run.result.number, run.result.id, run.result.seed, step, "critic/score/mean", shortest(share)}}));
    first = false;
  }
  for (const std::string& range : run.recorded.ranges) {
    line.push_back(text((first ? "" : "; ") + range));
    first = false;
  }
  if (first) line.push_back(text("not known"));
  return line;
}

Line results_line(const LoggedRun& run, const CompareOptions& options) {
  Line line = {strong("Results: ")};
  bool first = true;
  for (const EvalPoint& point : run.evaluations) {
    if (point.problems == 0) continue;
    const Interval interval = wilson(point.correct, point.problems);
    line.push_back(text((first ? "" : "; ") + std::string("step ") + std::to_string(point.step) + " "));
    line.push_back(number(fixed(percent_of(point), 2) + " %" + (under_other_quant(point) ? "‡" : ""), {source_of(run, point)}));
    line.push_back(text(" (" + std::to_string(point.correct) + " of " + std::to_string(point.problems) + ", 95 % interval " +
                        fixed(100 * interval.low, 1) + "–" + fixed(100 * interval.high, 1) +
                        (under_other_quant(point) ? ", measured under: " + point.quant : "") + ")"));
    first = false;
  }
  const bool has_last = measured(run.result.last);
  if (!has_last)
    line.push_back(text((first ? "" : "; ") + std::string("step ") + std::to_string(run.result.steps) + " missing"));
  const Verdict judged = verdict(run.result, options);
  line.push_back(text(". " + judged.word + ": " + judged.sentence + "."));
  return line;
}

std::string shell_quoted(const std::string& word) {
  if (!word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/=,") == std::string::npos)
    return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

void add_run(const LoggedRun& run, const Facts& facts, bool seeds, std::vector<Block>& blocks) {
  const RunResult& r = run.result;
  std::string heading = r.id + (seeds ? ", seed " + std::to_string(r.seed) : "");
  if (!r.title.empty()) heading += ": " + r.title;
  blocks.push_back(Heading{3, heading, "run-" + std::to_string(r.number)});
  List list;
  const auto say = [&](const std::string& label, const std::string& words) {
    if (!words.empty()) list.items.push_back({strong(label + ": "), text(words)});
  };
  if (!run.excluded.empty()) say("Excluded", run.excluded);
  say("Hypothesis", run.hypothesis);
  Line config = {strong("Key config: "), text("trained under "), code(run.quant_label)};
  for (const char* key : {"grpo.train_batch_size", "rollout.samples_per_prompt", "optimizer.lr", "lora.rank", "train.steps"})
    if (const auto found = run.config.find(key); found != run.config.end()) {
      config.push_back(text(", "));
      config.push_back(code(std::string(key) + " = " + found->second));
    }
  config.push_back(text("; config "));
  config.push_back(code(run.config_sha256.substr(0, 12)));
  list.items.push_back(std::move(config));
  if (!r.baseline.empty()) {
    Line change = {strong("Change against "), code(r.baseline), text(": ")};
    if (!run.change.empty()) change.push_back(text(run.change));
    bool first = run.change.empty();
    for (const auto& [key, values] : run.changed) {
      if (run.change.find(key) != std::string::npos) continue;
      change.push_back(text(first ? "" : "; "));
      change.push_back(code(key + ": " + values));
      first = false;
    }
    list.items.push_back(std::move(change));
  }
  const std::string commit = run.recorded.commits.empty() ? run.code_commit : joined(run.recorded.commits);
  say("Code", (commit.empty() ? "commit not known" : "commit " + commit) + (run.code_dirty ? ", with changes that are not committed (dirty.diff)" : "") +
                  (run.assay_commit.empty() ? "" : "; assay " + run.assay_commit));
  say("Script", run.recorded.script);
  list.items.push_back(results_line(run, facts.options));
  if (r.published_first || r.published_last) {
    const auto words = [](const std::optional<double>& value) { return value ? as_published(*value) : std::string("-"); };
    say("Published for its original", words(r.published_first) + " → " + words(r.published_last) + " %");
  }
  say("Booked as", run.recorded.outcome);
  list.items.push_back(progression(run));
  if (r.adapters_with_gradient && r.adapter_tensors)
    list.items.push_back({strong("Gradient: "),
                          number(std::to_string(*r.adapters_with_gradient) + " of " + std::to_string(*r.adapter_tensors),
                                 {{r.number, r.id, r.seed, r.steps, "actor/grad_tensors", std::to_string(*r.adapters_with_gradient)}}),
                          text(" adapter tensors have one in the last training step")});
  if (run.mean_weight_error)
    list.items.push_back({strong("Quantization error of the weights: "),
                          number(fixed(*run.mean_weight_error, 1) + " %", {{r.number, r.id, r.seed, -1, "weight_sqnr_db of quant-report.json", shortest(rounded(*run.mean_weight_error)) + " %"}}),
                          text(", relative, mean over the modules")});
  if (run.recorded.quantization_error)
    list.items.push_back({strong("Quantization error: "),
                          number(shortest(*run.recorded.quantization_error) + " %", {{r.number, r.id, r.seed, -1, "quantization error", "as reported"}})});
  say("Verdict", run.verdict);
  say("Conclusion", run.conclusion);
  for (const std::string& note : run.notes) say("Note", note);
  if (!run.recorded.log.empty()) say("Log", run.recorded.log);
  if (!run.folder.empty()) list.items.push_back({strong(run.recorded.log.empty() ? "Log: " : "Record: "), code(run.folder)});
  if (!run.origin.empty()) say("Imported from", run.origin);
  blocks.push_back(std::move(list));
  // Its number is its frozen config; an imported one has no trainer to go with it but the series'.
  blocks.push_back(Listing{run.origin.empty() ? "assay run " + std::to_string(r.number)
                                              : "assay run " + shell_quoted(facts.log.id + "/" + r.id) + " --seeds " + std::to_string(r.seed)});
}

}  // namespace

Part runs_part(const Facts& facts) {
  Part part{"runs", {Heading{2, "Runs", "runs"}}};
  bool seeds = false;
  for (const Arm& arm : facts.arms) seeds |= arm.runs.size() > 1;
  // By arm, then by seed: the runs of one id stand together.
  std::vector<const LoggedRun*> runs;
  std::vector<std::string> order;
  for (const LoggedRun& run : facts.log.runs)
    if (std::find(order.begin(), order.end(), run.result.id) == order.end()) order.push_back(run.result.id);
  for (const std::string& id : order)
    for (const LoggedRun& run : facts.log.runs)
      if (run.result.id == id) runs.push_back(&run);
  for (const LoggedRun* run : runs) add_run(*run, facts, seeds, part.blocks);
  if (facts.log.runs.empty()) part.blocks.push_back(Paragraph{{text("None yet.")}});
  return part;
}

}  // namespace assay::report
