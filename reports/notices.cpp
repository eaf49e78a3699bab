#include <algorithm>
#include <cmath>
#include <compare>
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

// Runs that agree in both figures, in each seed and, where the outcomes are known, in each problem: a line a group.
void identical_runs(const std::vector<Arm>& arms, std::vector<Line>& lines) {
  struct Figures {
    std::vector<std::int64_t> counts;           // of every seed: first right, last right, problems
    std::vector<std::vector<bool>> outcomes;    // of every seed at the last step; empty: not known
    auto operator<=>(const Figures&) const = default;
  };
  std::map<Figures, std::vector<const Arm*>> alike;
  for (const Arm& arm : arms) {
    Figures figures;
    bool whole = true;
    for (const LoggedRun* run : arm.runs) {
      const auto &first = run->result.first, &last = run->result.last;
      whole = whole && measured(first) && measured(last);
      if (!whole) break;
      for (const std::int64_t count : {run->result.seed, first->correct, last->correct, last->problems}) figures.counts.push_back(count);
      figures.outcomes.push_back(last->outcomes);
    }
    if (whole && !arm.runs.empty()) alike[std::move(figures)].push_back(&arm);
  }
  std::vector<const std::pair<const Figures, std::vector<const Arm*>>*> groups;
  for (const auto& group : alike)
    if (group.second.size() > 1) groups.push_back(&group);
  std::sort(groups.begin(), groups.end(), [](const auto* a, const auto* b) { return a->second.front() < b->second.front(); });
  for (const auto* group : groups) {
    const auto& [figures, same] = *group;
    Line line;
    std::vector<Source> sources;
    for (std::size_t i = 0; i < same.size(); ++i) {
      if (i > 0) line.push_back(text(i + 1 == same.size() ? " and " : ", "));
      line.push_back(code(same[i]->id));
      for (const bool last : {false, true}) {
        const auto at = level(*same[i], last)->sources;
        sources.insert(sources.end(), at.begin(), at.end());
      }
    }
    const bool known = std::none_of(figures.outcomes.begin(), figures.outcomes.end(), [](const auto& seed) { return seed.empty(); });
    line.push_back(text(" are identical in both figures ("));
    line.push_back(number(fixed(level(*same[0], false)->percent.mean, 2) + " → " + fixed(level(*same[0], true)->percent.mean, 2), sources));
    line.push_back(text(known ? ", the same problems right): what tells them apart had no effect on what was measured"
                        : same.size() == 2 ? "): two independent runs would hardly agree to the problem; one may be a copy of the other, "
                                             "or what tells them apart had no effect"
                                           : "): independent runs would hardly agree to the problem; they may be copies of each other, "
                                             "or what tells them apart had no effect"));
    lines.push_back(std::move(line));
  }
}

// Nothing can be said of causes where nothing was learned.
void nothing_learned(const SeriesLog& log, const std::vector<Arm>& arms, std::vector<Line>& lines) {
  if (log.causes.empty()) return;
  CompareOptions options;
  options.success_accuracy = log.success_accuracy;
  bool tested = false;
  for (const Arm& arm : arms)
    for (const LoggedRun* run : arm.runs) {
      const std::string word = verdict(run->result, options).word;
      if (word == "success" || word == "learns") return;
      tested = tested || word == "flat" || word == "degraded";
    }
  if (tested)
    lines.push_back({strong("No run learned: "),
                     text("none is significantly more accurate at its last step than at its first. A cause that is called ruled out "
                          "had no effect on runs that do not learn; on runs that do it may have one")});
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
  nothing_learned(log, arms, lines);
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
