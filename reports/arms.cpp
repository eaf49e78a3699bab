#include "reports/arms.h"

#include <algorithm>
#include <set>

#include "reports/text.h"

namespace assay::report {
namespace {

const std::optional<EvalPoint>& point_of(const LoggedRun& run, bool last) { return last ? run.result.last : run.result.first; }

std::string seed_list(const std::vector<std::int64_t>& seeds) {
  std::string list;
  for (const std::int64_t seed : seeds) list += (list.empty() ? "" : ", ") + std::to_string(seed);
  return list;
}

bool outcomes_known(const EvalPoint& point) { return point.problems > 0 && std::ssize(point.outcomes) == point.problems; }

// Why the problems of two accuracies cannot be paired; empty: they can.
std::string why_not_paired(const EvalPoint& a, const EvalPoint& b) {
  if (a.data_sha256 != b.data_sha256) return "they were measured on different test files";
  if (a.problems != b.problems)
    return "they were measured on " + std::to_string(a.problems) + " and " + std::to_string(b.problems) + " problems";
  if (!outcomes_known(a) || !outcomes_known(b)) return "the outcomes of the single problems are not known";
  return {};
}


}  // namespace

bool measured(const std::optional<EvalPoint>& point) { return point && point->problems > 0; }

double percent_of(const EvalPoint& point) {
  return 100.0 * static_cast<double>(point.correct) / static_cast<double>(point.problems);
}

bool under_other_quant(const EvalPoint& point) { return point.quant != point.trained_quant; }

Source source_of(const LoggedRun& run, const EvalPoint& point) {
  return {run.result.number, run.result.id, run.result.seed, point.step, "accuracy",
          std::to_string(point.correct) + " of " + std::to_string(point.problems) + " right, measured under: " + point.quant};
}

std::vector<Arm> arms_of(const SeriesLog& log) {
  std::vector<Arm> arms;
  for (const LoggedRun& run : log.runs) {
    if (!run.result.excluded.empty()) continue;
    const auto found = std::find_if(arms.begin(), arms.end(), [&](const Arm& arm) { return arm.id == run.result.id; });
    if (found == arms.end()) arms.push_back({run.result.id, {&run}});
    else found->runs.push_back(&run);
  }
  for (Arm& arm : arms)
    std::stable_sort(arm.runs.begin(), arm.runs.end(),
                     [](const LoggedRun* a, const LoggedRun* b) { return a->result.seed < b->result.seed; });
  return arms;
}

const Arm* find_arm(const std::vector<Arm>& arms, const std::string& id) {
  const auto found = std::find_if(arms.begin(), arms.end(), [&](const Arm& arm) { return arm.id == id; });
  return found == arms.end() ? nullptr : &*found;
}

std::optional<Level> level(const Arm& arm, bool last) {
  Level result;
  std::vector<double> values;
  for (const LoggedRun* run : arm.runs) {
    const auto& point = point_of(*run, last);
    // A run that did not end well has no result, whatever it left behind.
    if (!measured(point) || (last && run->result.state != "succeeded")) continue;
    if (!values.empty() && point->step != result.step) continue;
    result.step = point->step;
    values.push_back(percent_of(*point));
    result.correct += point->correct;
    result.problems += point->problems;
    result.other_quant |= under_other_quant(*point);
    result.sources.push_back(source_of(*run, *point));
  }
  if (values.empty()) return std::nullopt;
  result.seeds = std::ssize(values);
  result.percent = mean_of(values);
  if (result.percent.interval)   // that of few seeds may reach beyond what a share can be
    result.percent.interval = Interval{std::max(0.0, result.percent.interval->low), std::min(100.0, result.percent.interval->high)};
  const Interval pooled = wilson(result.correct, result.problems);
  result.pooled = {100 * pooled.low, 100 * pooled.high};
  return result;
}

Contrast contrast(const Arm& run, const Arm& against) {
  Contrast result;
  result.run = run.id;
  result.against = against.id;
  struct Pair {
    const LoggedRun *run, *against;
  };
  std::vector<Pair> pairs;
  std::vector<std::int64_t> seeds, other_seeds;
  for (const LoggedRun* a : run.runs) {
    seeds.push_back(a->result.seed);
    for (const LoggedRun* b : against.runs)
      if (a->result.seed == b->result.seed) pairs.push_back({a, b});
  }
  for (const LoggedRun* b : against.runs) other_seeds.push_back(b->result.seed);
  if (pairs.empty()) {
    result.refused = "no seed in common (" + seed_list(seeds) + "; " + seed_list(other_seeds) + ")";
    return result;
  }
  const auto usable = [](const LoggedRun& one) { return measured(one.result.last) && one.result.state == "succeeded"; };
  std::erase_if(pairs, [&](const Pair& pair) { return !usable(*pair.run) || !usable(*pair.against); });
  if (pairs.empty()) {
    std::string missing;
    for (const Arm* arm : {&run, &against})
      if (std::none_of(arm->runs.begin(), arm->runs.end(), [&](const LoggedRun* one) { return usable(*one); }))
        missing += (missing.empty() ? "" : " and ") + arm->id;
    const std::string figure = "no step-" + std::to_string(run.any().result.steps) + " figure of ";
    result.refused = missing.empty() ? figure + "both on one seed" : figure + missing;
    return result;
  }
  if (const auto uneven = std::find_if(pairs.begin(), pairs.end(), [](const Pair& pair) {
        return pair.run->result.last->step != pair.against->result.last->step;
      }); uneven != pairs.end()) {
    result.refused = "their last steps are " + std::to_string(uneven->run->result.last->step) + " and " +
                     std::to_string(uneven->against->result.last->step);
    return result;
  }

  std::vector<double> differences;
  std::int64_t first_only = 0, second_only = 0, k1 = 0, n1 = 0, k2 = 0, n2 = 0;
  for (const Pair& pair : pairs) {
    const EvalPoint &a = *pair.run->result.last, &b = *pair.against->result.last;
    differences.push_back(percent_of(a) - percent_of(b));
    if (const std::string why = why_not_paired(b, a); !why.empty()) result.not_paired = why;
    else {
      const Paired counts = paired(b.outcomes, a.outcomes);
      first_only += counts.first_only;
      second_only += counts.second_only;
    }
    k1 += b.correct, n1 += b.problems, k2 += a.correct, n2 += a.problems;
    result.problems = a.problems;
    result.sources.push_back(source_of(*pair.run, a));
    result.sources.push_back(source_of(*pair.against, b));
  }
  const Mean mean = mean_of(differences);
  result.seeds = std::ssize(pairs);
  result.points = mean.mean;
  result.deviation = mean.deviation;
  Interval shares;
  if (result.not_paired.empty()) {
    shares = paired_difference(first_only, second_only, n1);
    result.p = mcnemar_exact(first_only, second_only);
    result.test = "exact McNemar";
  } else {
    shares = newcombe(k1, n1, k2, n2);
    const Unpaired test = unpaired(k1, n1, k2, n2);
    result.p = test.p;
    result.test = test.fisher ? "Fisher's exact" : "two proportions";
  }
  result.interval = {100 * shares.low, 100 * shares.high};
  if (mean.interval) {
    // A few seeds' t interval may reach beyond what a difference of shares can be.
    result.interval = {std::max(-100.0, std::min(result.interval.low, mean.interval->low)), std::min(100.0, std::max(result.interval.high, mean.interval->high))};
    result.p = std::max(result.p, *mean.p);
    result.test += " over all seeds, t over " + std::to_string(result.seeds) + " seeds";
  }
  return result;
}

std::vector<std::string> differing_keys(const LoggedRun& a, const LoggedRun& b) {
  std::set<std::string> keys;
  for (const auto& [key, value] : a.config) {
    const auto other = b.config.find(key);
    if (other == b.config.end() || other->second != value) keys.insert(key);
  }
  for (const auto& [key, value] : b.config)
    if (a.config.count(key) == 0) keys.insert(key);
  if (keys.count("quant.format") != 0) keys.erase("quant.mode");
  return {keys.begin(), keys.end()};
}

}  // namespace assay::report
