// The rule for statuses and the difference to the baseline. docs/statuses.md says the same in prose.
#include "reports/comparison.h"

#include <algorithm>
#include <map>

#include "reports/text.h"

namespace assay::report {
namespace {

double percent(const EvalPoint& point) {
  return 100.0 * static_cast<double>(point.correct) / static_cast<double>(point.problems);
}

std::string accuracy_text(const EvalPoint& point) {
  return fixed(percent(point), 1) + " % at step " + std::to_string(point.step);
}

std::string p_text(double p) { return p < 0.001 ? "p < .001" : "p = " + p_value(p); }

// Why two accuracies are not of the same problems; empty: they are.
std::string not_comparable(const EvalPoint& a, const EvalPoint& b) {
  if (a.data_sha256 != b.data_sha256) return "they were measured on different test files";
  if (a.problems != b.problems)
    return "they were measured on " + std::to_string(a.problems) + " and " + std::to_string(b.problems) + " problems";
  return {};
}

// Why no paired test can be made although the problems are the same; empty: it can.
std::string not_pairable(const EvalPoint& a, const EvalPoint& b) {
  const auto known = [](const EvalPoint& point) { return std::ssize(point.outcomes) == point.problems; };
  if (!known(a) || !known(b)) return "the outcomes of the single problems are not known";
  return {};
}

bool measured(const std::optional<EvalPoint>& point) { return point && point->problems > 0; }

std::string state_sentence(const RunResult& run) {
  const std::string detail = run.state_detail.empty() ? "" : ": " + run.state_detail;
  if (run.state == "queued") return "waits for a slot" + detail;
  if (run.state == "blocked") return "waits for another run" + detail;
  if (run.state == "starting") return "is being started" + detail;
  if (run.state == "running") return "is still running" + detail;
  if (run.state == "failed") return "failed" + detail;
  if (run.state == "killed") return "was ended" + detail;
  if (run.state == "lost") return "was lost: its supervisor ended without an exit record" + detail;
  if (run.state == "stalled") return "was ended because it made no progress" + detail;
  if (run.state == "skipped") return "was skipped because a run it depends on did not succeed" + detail;
  return "is " + run.state + detail;
}

void set_difference(ComparisonRow& row, const std::vector<RunResult>& runs) {
  // The newest of that id and seed: a table may hold several batches.
  const RunResult* base = nullptr;
  for (const RunResult& other : runs)
    if (other.id == row.baseline && other.seed == row.run.seed && (!base || other.number > base->number)) base = &other;
  if (!base) {
    row.refused = "there is no run " + row.baseline + " with seed " + std::to_string(row.run.seed) + " in this table";
    return;
  }
  if (!row.run.excluded.empty() || !base->excluded.empty()) {
    row.refused = row.run.excluded.empty() ? "the baseline " + row.baseline + " is excluded" : "it is excluded";
    return;
  }
  if (!measured(row.run.last)) {
    row.refused = "it has no accuracy at its last step";
    return;
  }
  if (!measured(base->last)) {
    row.refused = "the baseline " + row.baseline + " has no accuracy at its last step";
    return;
  }
  if (row.run.last->step != base->last->step) {
    row.refused = "its last step is " + std::to_string(row.run.last->step) + ", that of the baseline " + row.baseline +
                  " is " + std::to_string(base->last->step);
    return;
  }
  row.refused = not_comparable(*row.run.last, *base->last);
  if (!row.refused.empty()) return;
  row.difference = percent(*row.run.last) - percent(*base->last);
  row.refused = not_pairable(*row.run.last, *base->last);
  if (row.refused.empty()) row.p = paired(base->last->outcomes, row.run.last->outcomes).p;
}

}  // namespace

Verdict verdict(const RunResult& run, const CompareOptions& options) {
  if (!run.excluded.empty()) return {"excluded", "is left out of comparisons: " + run.excluded};
  if (run.state != "succeeded") return {run.state, state_sentence(run)};
  if (!measured(run.last))
    return {"unfinished", "ended well but has no accuracy at its last step, " + std::to_string(run.steps)};
  if (!measured(run.first)) return {"untested", accuracy_text(*run.last) + ", but its first accuracy is not known"};

  const std::string both = accuracy_text(*run.first) + ", " + accuracy_text(*run.last);
  std::string refused = not_comparable(*run.first, *run.last);
  if (refused.empty()) refused = not_pairable(*run.first, *run.last);
  if (!refused.empty()) return {"untested", both + "; no test was made: " + refused};

  const Paired test = paired(run.first->outcomes, run.last->outcomes);
  const std::string evidence = both + ": ";
  const std::string p = " (exact McNemar, " + p_text(test.p) + ")";
  if (!(test.p < options.alpha)) return {"flat", evidence + "no significant difference" + p};
  if (test.second_only < test.first_only) return {"degraded", evidence + "significantly lower" + p};
  const std::string threshold = shortest(options.success_accuracy) + " %";
  if (percent(*run.last) >= options.success_accuracy)
    return {"success", evidence + "significantly higher" + p + " and at least " + threshold};
  return {"learns", evidence + "significantly higher" + p + ", but below " + threshold};
}

std::string status_rule(const CompareOptions& options) {
  return "a run that did not end well shows its state; otherwise its last accuracy is compared with its first by "
         "the exact McNemar test: flat if p >= " + shortest(options.alpha) +
         ", degraded if it is significantly lower, success if it is significantly higher and at least " +
         shortest(options.success_accuracy) + " %, learns if it is significantly higher but below that";
}

Comparison compare(const std::vector<RunResult>& runs, const CompareOptions& options) {
  std::map<std::string, std::size_t> order;  // id -> place of its first appearance
  for (const RunResult& run : runs) order.emplace(run.id, order.size());
  std::vector<RunResult> sorted = runs;
  std::stable_sort(sorted.begin(), sorted.end(), [&](const RunResult& a, const RunResult& b) {
    return std::tuple(order.at(a.id), a.seed, a.number) < std::tuple(order.at(b.id), b.seed, b.number);
  });

  Comparison comparison{{}, options};
  for (RunResult& run : sorted) {
    ComparisonRow row;
    row.verdict = verdict(run, options);
    row.baseline = options.baseline.empty() ? run.baseline : options.baseline;
    if (row.baseline == run.id) row.baseline.clear();
    row.run = std::move(run);
    if (measured(row.run.last)) row.interval = wilson(row.run.last->correct, row.run.last->problems);
    if (!row.baseline.empty()) set_difference(row, runs);
    comparison.rows.push_back(std::move(row));
  }
  return comparison;
}

}  // namespace assay::report
