#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "reports/log_parts.h"
#include "reports/text.h"

namespace assay::report {
namespace {

// Percent as it was printed where it was imported, as measured otherwise.
std::optional<double> figure(const Arm& arm, const std::string& metric, std::int64_t step, std::vector<Source>& sources) {
  const LoggedRun& run = arm.any();
  const auto& printed = metric == "score" ? run.recorded.score : run.recorded.accuracy;
  const Source at{run.result.number, run.result.id, run.result.seed, step, metric == "score" ? "critic/score/mean" : "accuracy", ""};
  if (const auto found = printed.find(step); found != printed.end()) {
    sources.push_back(at);
    sources.back().value = shortest(found->second) + " %, as reported";
    return found->second;
  }
  if (metric == "score") {
    for (const auto& [when, share] : run.scores)
      if (when == step) {
        sources.push_back(at);
        sources.back().value = shortest(share);
        return 100 * share;
      }
    return std::nullopt;
  }
  for (const EvalPoint& point : run.evaluations)
    if (point.step == step && point.problems > 0) {
      sources.push_back(source_of(run, point));
      return percent_of(point);
    }
  return std::nullopt;
}

void identical_runs(const std::vector<Arm>& arms, std::vector<Line>& lines) {
  std::vector<std::optional<Level>> firsts, lasts;
  for (const Arm& arm : arms) {
    firsts.push_back(level(arm, false));
    lasts.push_back(level(arm, true));
  }
  for (std::size_t i = 0; i < arms.size(); ++i)
    for (std::size_t k = 0; k < i; ++k) {
      const auto &a0 = firsts[i], &a1 = lasts[i], &b0 = firsts[k], &b1 = lasts[k];
      if (!a0 || !a1 || !b0 || !b1 || a0->seeds != b0->seeds) continue;
      bool same = a0->correct == b0->correct && a1->correct == b1->correct && a1->problems == b1->problems;
      bool known = true, outcomes = true;
      for (std::size_t s = 0; same && s < std::min(arms[i].runs.size(), arms[k].runs.size()); ++s) {
        const auto &x = arms[i].runs[s]->result.last, &y = arms[k].runs[s]->result.last;
        if (!x || !y) continue;
        known = known && !x->outcomes.empty() && !y->outcomes.empty();
        outcomes = outcomes && x->outcomes == y->outcomes;
        same = same && x->correct == y->correct;
      }
      if (!same || (known && !outcomes)) continue;
      std::vector<Source> sources = a0->sources;
      for (const auto* more : {&a1->sources, &b0->sources, &b1->sources}) sources.insert(sources.end(), more->begin(), more->end());
      lines.push_back({code(arms[k].id), text(" and "), code(arms[i].id), text(" are identical in both figures ("),
                       number(fixed(a0->percent.mean, 2) + " → " + fixed(a1->percent.mean, 2), sources),
                       text(known ? ", the same problems right): what tells them apart had no effect on what was measured"
                                  : "): two independent runs would hardly agree to the problem; one may be a copy of the other, "
                                    "or what tells them apart had no effect")});
    }
}

void quantization(const SeriesLog& log, const std::vector<Arm>& arms, std::vector<Line>& lines) {
  std::map<std::string, std::set<std::string>> by_label;   // measured under -> runs
  std::size_t all = 0;
  for (const Arm& arm : arms)
    for (const LoggedRun* run : arm.runs)
      for (const EvalPoint& point : run->evaluations) {
        if (!under_other_quant(point)) continue;
        ++all;
        by_label[point.quant].insert(arm.id);
      }
  for (const auto& [label, ids] : by_label) {
    Line line = {strong("measured under: " + (label.empty() ? "unknown" : label)), text("‡ in ")};
    if (ids.size() == arms.size()) line.push_back(text("every run"));
    else line.push_back(code(joined({ids.begin(), ids.end()})));
    line.push_back(text(", which is not what the run was trained under"));
    if (label == "unknown" && !log.quant_note.empty()) line.push_back(text(": " + log.quant_note));
    lines.push_back(std::move(line));
  }
}

void first_step(const std::vector<Arm>& arms, std::vector<Line>& lines) {
  std::vector<std::int64_t> counts;
  std::vector<Source> sources;
  std::set<std::int64_t> problems;
  std::set<std::string> files;
  for (const Arm& arm : arms)
    for (const LoggedRun* run : arm.runs)
      if (measured(run->result.first)) {
        counts.push_back(run->result.first->correct);
        problems.insert(run->result.first->problems);
        files.insert(run->result.first->data_sha256);
        sources.push_back(source_of(*run, *run->result.first));
      }
  if (counts.size() < 3 || problems.size() != 1 || files.size() != 1) return;
  const auto [low, high] = std::minmax_element(counts.begin(), counts.end());
  if (*low == *high) return;
  const Spread apart = spread(counts, *problems.begin());
  lines.push_back(
      {text("Step 0 lies between "),
       number(std::to_string(*low) + " and " + std::to_string(*high) + " of " + std::to_string(*problems.begin()), sources),
       text(" right over " + std::to_string(counts.size()) + " runs, before any training: a standard deviation of "),
       number(fixed(apart.deviation, 1), sources), text(" problems, where problems drawn anew would give "),
       number(fixed(apart.chance, 1), sources),
       text(" (chi-square "), number(fixed(apart.chi_square, 1), sources),
       text(" on " + std::to_string(counts.size() - 1) + " degrees of freedom, p = "), number(p_value(apart.p), sources),
       text(std::string("). ") +
            (apart.p < 0.05 ? "That is more than chance: the runs do not start from the same place."
            : apart.deviation < apart.chance / 3
                ? "That is far less than chance: the runs start from one model and are asked the same problems, so a difference at the last step comes from training."
                            : "Chance explains all of it: no run starts ahead of another, and a difference of this size at the last step shows nothing."))});
}

}  // namespace

std::vector<ClaimCheck> check_claims(const SeriesLog& log, const std::vector<Arm>& arms) {
  std::vector<ClaimCheck> checks;
  for (const Claim& claim : log.claims) {
    ClaimCheck check;
    check.claim = &claim;
    double of = claim.of, to = claim.to;
    bool there = true;
    const auto take = [&](const std::string& id, double& into) {
      const Arm* arm = find_arm(arms, id);
      const auto value = arm == nullptr ? std::nullopt : figure(*arm, claim.metric, claim.step, check.sources);
      if (value) into = *value;
      else there = false;
    };
    if (claim.step >= 0) {
      take(claim.of_run, of);
      take(claim.to_run, to);
    } else {
      check.sources.push_back({0, "", 0, -1, claim.how, shortest(claim.of) + " and " + shortest(claim.to) + ", as reported"});
    }
    if (there && (claim.how == "difference" || to != 0)) {
      check.computed = claim.how == "difference" ? of - to : (claim.how == "percent" ? 100 : 1) * of / to;
      const int decimals = static_cast<int>(claim.decimals);
      check.agrees = fixed(*check.computed, decimals) == fixed(claim.said, decimals);
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<Line> notices(const SeriesLog& log, const std::vector<Arm>& arms) {
  std::vector<Line> lines;
  identical_runs(arms, lines);
  quantization(log, arms, lines);
  first_step(arms, lines);
  for (const ClaimCheck& check : check_claims(log, arms)) {
    if (!check.computed || check.agrees) continue;
    const Claim& claim = *check.claim;
    const std::string unit = claim.unit == "x" ? "x" : " " + claim.unit;
    const int decimals = static_cast<int>(claim.decimals);
    lines.push_back({text(claim.what + ": "), strong(fixed(claim.said, decimals) + unit), text(" was reported, and it is "),
                     number(fixed(*check.computed, decimals) + unit, check.sources),
                     text(claim.step >= 0 ? "" : " (" + shortest(claim.of) + " / " + shortest(claim.to) + ")"),
                     text(claim.note.empty() ? "" : "; " + claim.note)});
  }
  return lines;
}

}  // namespace assay::report
