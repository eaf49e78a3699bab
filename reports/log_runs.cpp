// One record per run: what was tried, what was changed, what came of it, and how to do it again.
#include <algorithm>
#include <map>

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
  Line line;
  bool first = true;
  for (const auto& [step, share] : thinned(run.scores)) {
    line.push_back(text((first ? "" : ", ") + std::string("step ") + std::to_string(step) + " "));
    line.push_back(number(fixed(100 * share, 1) + " %", {{run.result.number, run.result.id, run.result.seed, step, "critic/score/mean", shortest(share)}}));
    first = false;
  }
  for (const std::string& range : run.recorded.ranges) {
    if (!first) line.push_back(text("; "));
    for (Inline& piece : sourced(range, {{run.result.number, run.result.id, run.result.seed, -1, "critic/score/mean", "as reported"}})) line.push_back(std::move(piece));
    first = false;
  }
  if (first) line.push_back(text("not known"));
  return line;
}

Line results_line(const LoggedRun& run, const CompareOptions& options) {
  Line line;
  bool first = true;
  for (const EvalPoint& point : run.evaluations) {
    if (point.problems == 0) continue;
    const Interval interval = wilson(point.correct, point.problems);
    line.push_back(text((first ? "" : "; ") + std::string("step ") + std::to_string(point.step) + " "));
    line.push_back(number(fixed(percent_of(point), 2) + " %" + (under_other_quant(point) ? "‡" : ""), {source_of(run, point)}));
    const std::vector<Source> source = {source_of(run, point)};
    line.push_back(text(" ("));
    line.push_back(number(std::to_string(point.correct) + " of " + std::to_string(point.problems), source));
    line.push_back(text(", 95 % interval "));
    line.push_back(number(fixed(100 * interval.low, 1) + "–" + fixed(100 * interval.high, 1), source));
    line.push_back(text((under_other_quant(point) ? ", measured under: " + point.quant : "") + ")"));
    first = false;
  }
  const bool has_last = measured(run.result.last);
  if (!has_last)
    line.push_back(text((first ? "" : "; ") + std::string("step ") + std::to_string(run.result.steps) + " missing"));
  const Verdict judged = verdict(run.result, options);
  std::vector<Source> both;
  for (const auto* point : {&run.result.first, &run.result.last})
    if (measured(*point)) both.push_back(source_of(run, **point));
  for (Inline& piece : sourced(". " + judged.word + ": " + judged.sentence + ".", both)) line.push_back(std::move(piece));
  return line;
}

std::string shell_quoted(const std::string& word) {
  if (!word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/=,") == std::string::npos)
    return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

using Items = std::vector<std::pair<std::string, Line>>;   // label, what is said

Items record_of(const LoggedRun& run, const Facts& facts) {
  const RunResult& r = run.result;
  Items items;
  const auto say = [&](const std::string& label, const std::string& words) {
    if (!words.empty()) items.emplace_back(label, Line{text(words)});
  };
  if (!run.result.excluded.empty()) say("Excluded", run.result.excluded);
  say("Hypothesis", run.hypothesis);
  Line config = {text("trained under "), code(run.quant_label)};
  for (const char* key : {"grpo.train_batch_size", "rollout.samples_per_prompt", "optimizer.lr", "lora.rank", "train.steps"})
    if (const auto found = run.config.find(key); found != run.config.end()) {
      config.push_back(text(", "));
      config.push_back(code(std::string(key) + " = " + found->second));
    }
  items.emplace_back("Key config", std::move(config));
  if (!r.baseline.empty()) {
    Line change;
    if (!run.change.empty()) change.push_back(text(run.change));
    for (const auto& [key, values] : run.changed) {
      if (run.change.find(key) != std::string::npos) continue;
      if (!change.empty()) change.push_back(text("; "));
      change.push_back(code(key + ": " + values));
    }
    items.emplace_back("Change against " + r.baseline, std::move(change));
  }
  const std::string commit = run.recorded.commits.empty() ? run.code_commit : joined(run.recorded.commits);
  say("Code", (commit.empty() ? "commit not known" : "commit " + commit) + (run.code_dirty ? ", with changes that are not committed (dirty.diff)" : "") +
                  (run.assay_commit.empty() ? "" : "; assay " + run.assay_commit));
  say("Script", run.recorded.script);
  items.emplace_back("Results", results_line(run, facts.options));
  if (r.published_first || r.published_last) {
    Line line = published_cell(r);
    line.push_back(text(" %"));
    items.emplace_back("Published for its original", std::move(line));
  }
  say("Booked as", run.recorded.outcome);
  items.emplace_back("Training score", progression(run));
  if (r.adapters_with_gradient && r.adapter_tensors)
    items.emplace_back("Gradient", Line{number(std::to_string(*r.adapters_with_gradient) + " of " + std::to_string(*r.adapter_tensors),
                                               {{r.number, r.id, r.seed, r.steps, "actor/grad_tensors", std::to_string(*r.adapters_with_gradient)}}),
                                        text(" adapter tensors have one in the last training step")});
  if (run.mean_weight_error)
    items.emplace_back("Quantization error of the weights",
                       Line{number(fixed(*run.mean_weight_error, 1) + " %", {{r.number, r.id, r.seed, -1, "weight_sqnr_db of quant-report.json", shortest(rounded(*run.mean_weight_error)) + " %"}}),
                            text(", relative, mean over the modules")});
  if (run.recorded.quantization_error)
    items.emplace_back("Quantization error", Line{number(shortest(*run.recorded.quantization_error) + " %", {{r.number, r.id, r.seed, -1, "quantization error", "as reported"}})});
  say("Verdict", run.verdict);
  say("Conclusion", run.conclusion);
  for (const std::string& note : run.notes) say("Note", note);
  items.emplace_back("Config", Line{code(run.config_sha256.substr(0, 12)), text(" (SHA-256)")});
  if (!run.recorded.log.empty()) say("Log", run.recorded.log);
  if (!run.folder.empty()) items.emplace_back(run.recorded.log.empty() ? "Log" : "Record", Line{code(run.folder)});
  if (!run.origin.empty()) say("Imported from", run.origin);
  return items;
}

std::string words_of(const Line& line) {
  std::string all;
  for (const Inline& piece : line) all += piece.text;
  return all;
}

void add_items(const Items& items, std::vector<Block>& blocks) {
  List list;
  for (const auto& [label, line] : items) {
    list.items.push_back({strong(label + ": ")});
    list.items.back().insert(list.items.back().end(), line.begin(), line.end());
  }
  if (!list.items.empty()) blocks.push_back(std::move(list));
}

// All runs of an id: what they have in common once, then each seed's own.
void add_arm(const std::vector<const LoggedRun*>& runs, const Facts& facts, std::vector<Block>& blocks) {
  const RunResult& first = runs.front()->result;
  blocks.push_back(Heading{3, first.id + (first.title.empty() ? "" : ": " + first.title), "of-" + std::to_string(first.number)});
  std::vector<Items> records;
  for (const LoggedRun* run : runs) records.push_back(record_of(*run, facts));
  Items common;
  if (runs.size() > 1)
    for (auto& item : records.front()) {
      std::vector<const Line*> same;
      for (const Items& record : records)
        for (const auto& other : record)
          if (other.first == item.first && words_of(other.second) == words_of(item.second)) {
            same.push_back(&other.second);
            break;
          }
      if (same.size() != runs.size()) continue;
      common.push_back(item);
      for (std::size_t i = 1; i < same.size(); ++i)   // a figure that all have comes from all of them
        for (std::size_t k = 0; k < std::min(same[i]->size(), item.second.size()); ++k)
          common.back().second[k].sources.insert(common.back().second[k].sources.end(), (*same[i])[k].sources.begin(), (*same[i])[k].sources.end());
    }
  add_items(common, blocks);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const LoggedRun& run = *runs[i];
    Items own;
    for (auto& item : records[i])
      if (std::none_of(common.begin(), common.end(), [&](const auto& other) { return other.first == item.first && words_of(other.second) == words_of(item.second); }))
        own.push_back(std::move(item));
    if (runs.size() > 1)
      blocks.push_back(Heading{4, run.result.id + ", seed " + std::to_string(run.result.seed), "run-" + std::to_string(run.result.number)});
    add_items(own, blocks);
    // Its number is its frozen config; an imported one has no trainer to go with it but the series'.
    blocks.push_back(Listing{run.origin.empty() ? "assay run " + std::to_string(run.result.number)
                                                : "assay run " + shell_quoted(facts.log.id + "/" + run.result.id) + " --seeds " + std::to_string(run.result.seed)});
  }
}

}  // namespace

Part runs_part(const Facts& facts) {
  Part part{"runs", {Heading{2, "Runs", "runs"}}};
  if (facts.log.runs.empty()) {
    part.blocks.push_back(Paragraph{{text("None yet.")}});
    return part;
  }
  if (std::any_of(facts.log.runs.begin(), facts.log.runs.end(), [](const LoggedRun& run) { return run.origin.empty(); }))
    part.blocks.push_back(Paragraph{{text("Each record ends with the command that repeats it: "), code("assay run NUMBER"),
                                     text(", from the configuration frozen with the run, where this registry is. Elsewhere: "),
                                     code("assay run " + shell_quoted(facts.log.id) + "/ID --seeds SEED"), text(", with assay as it was at the commit given.")}});
  // By id, then by seed.
  std::vector<std::string> order;
  std::map<std::string, std::vector<const LoggedRun*>> arms;
  for (const LoggedRun& run : facts.log.runs) {
    auto& runs = arms[run.result.id];
    if (runs.empty()) order.push_back(run.result.id);
    runs.push_back(&run);
  }
  for (const std::string& id : order) add_arm(arms.at(id), facts, part.blocks);
  return part;
}

}  // namespace assay::report
