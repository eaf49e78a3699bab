#include "reports/causes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "reports/log_parts.h"
#include "reports/text.h"

namespace assay::report {
namespace {

std::string points_text(double points) {
  const std::string words = fixed(points, 1);
  return (words.starts_with('-') || words == "0.0" ? words : "+" + words) + " points";
}

std::string interval_text(const Interval& interval) {
  return fixed(interval.low, 1) + " to " + fixed(interval.high, 1);
}

bool subset(const std::vector<std::string>& small, const std::vector<std::string>& large) {
  return std::includes(large.begin(), large.end(), small.begin(), small.end());
}

// The keys a cause stands for: what is left of its pair's keys once those of causes with fewer keys are taken away.
void find_confounded(std::vector<CauseRow>& rows) {
  for (CauseRow& row : rows)
    for (const CauseRow& other : rows)
      if (&row != &other && !other.keys.empty() && other.keys.size() < row.keys.size() && subset(other.keys, row.keys) &&
          std::find(row.with.begin(), row.with.end(), other.cause.name) == row.with.end())
        row.with.push_back(other.cause.name);
}

// What this cause is about: the pair's keys without those of the causes it changes as well.
std::vector<std::string> own_keys(const CauseRow& row, const std::vector<CauseRow>& rows) {
  std::set<std::string> keys(row.keys.begin(), row.keys.end());
  for (const CauseRow& other : rows)
    if (std::find(row.with.begin(), row.with.end(), other.cause.name) != row.with.end())
      for (const std::string& key : other.keys) keys.erase(key);
  if (keys.empty()) return row.keys;
  return {keys.begin(), keys.end()};
}

// Which keys two arms differ in, fast: a series may have hundreds of arms, and all pairs are looked at.
class Configs {
 public:
  explicit Configs(const std::vector<Arm>& arms) {
    std::map<std::string, std::size_t> places;
    for (const Arm& arm : arms)
      for (const auto& [key, value] : arm.any().config)
        if (places.emplace(key, keys_.size()).second) keys_.push_back(key);
    std::map<std::string, int> words;
    for (const Arm& arm : arms) {
      auto& values = values_.emplace_back(keys_.size(), -1);
      for (const auto& [key, value] : arm.any().config)
        values[places.at(key)] = words.emplace(value, static_cast<int>(words.size())).first->second;
      has_last_.push_back(level(arm, true).has_value());
    }
    const auto place = [&](const char* key) { return places.count(key) != 0 ? places.at(key) : keys_.size(); };
    format_ = place("quant.format");
    mode_ = place("quant.mode");
  }
  bool differ(std::size_t i, std::size_t k, std::size_t key) const {
    if (key == mode_ && format_ < keys_.size() && values_[i][format_] != values_[k][format_]) return false;   // follows its format
    return values_[i][key] != values_[k][key];
  }
  std::size_t count(std::size_t i, std::size_t k) const {
    std::size_t n = 0;
    for (std::size_t key = 0; key < keys_.size(); ++key) n += differ(i, k, key) ? 1 : 0;
    return n;
  }
  std::vector<std::size_t> places(const std::vector<std::string>& names) const {
    std::vector<std::size_t> found;
    for (const std::string& name : names)
      found.push_back(static_cast<std::size_t>(std::find(keys_.begin(), keys_.end(), name) - keys_.begin()));
    return found;
  }
  bool has_last(std::size_t i) const { return has_last_[i]; }
  std::size_t size() const { return values_.size(); }

 private:
  std::vector<std::string> keys_;
  std::vector<std::vector<int>> values_;
  std::vector<bool> has_last_;
  std::size_t format_ = 0, mode_ = 0;
};

// Pairs that change this cause's keys alone, and, where there is no figure, the measured pair with the fewest others.
void offer(CauseRow& row, const std::vector<CauseRow>& rows, const std::vector<Arm>& arms, const Configs& configs) {
  constexpr std::size_t kMostClean = 3;
  const std::vector<std::string> keys = own_keys(row, rows);
  if (keys.empty()) return;
  const std::vector<std::size_t> places = configs.places(keys);
  const auto take = [&](std::size_t run, std::size_t against, bool alone) {
    const std::vector<std::string> differ = differing_keys(arms[run].any(), arms[against].any());
    row.offers.push_back(contrast(arms[run], arms[against]));
    row.offer_reasons.push_back("differs in " + joined(differ) + (alone ? " alone" : differ.size() > 1 ? ", which it tests together" : ""));
  };
  std::size_t best = 0, bridge_run = 0, bridge_against = 0;
  for (std::size_t against = 0; against < configs.size(); ++against)
    for (std::size_t run = against + 1; run < configs.size(); ++run) {   // as the series orders them: later against earlier
      if (std::any_of(places.begin(), places.end(), [&](std::size_t key) { return !configs.differ(run, against, key); })) continue;
      const auto is = [&](const std::string& a, const std::string& b) { return arms[run].id == a && arms[against].id == b; };
      if (is(row.cause.run, row.cause.against) || is(row.cause.against, row.cause.run)) continue;
      const std::size_t count = configs.count(run, against);
      if (count == keys.size() && row.keys != keys) {
        if (row.offers.size() < kMostClean) take(run, against, true);
      } else if (!row.contrast.points && configs.has_last(run) && configs.has_last(against) && (best == 0 || count < best)) {
        best = count;
        bridge_run = run;
        bridge_against = against;
      }
    }
  if (best > 0) take(bridge_run, bridge_against, false);
}

// With how many seeds a pair would be decided, if its difference and their spread stay as they are; 0: none is known.
std::int64_t seeds_to_decide(const CauseRow& row, double margin, double alpha) {
  const Contrast& c = row.contrast;
  if (c.seeds <= 1) return 0;
  if (const auto seeds = seeds_to_rule_out(*c.points, c.deviation, margin)) return *seeds;
  return seeds_to_show(*c.points, c.deviation, c.p > 0 ? std::max(1.0, row.adjusted / c.p) : 1, alpha).value_or(0);
}

// Gains that count for the cause found: of a declared pair that tests it alone.
bool counts(const CauseRow& row) { return !row.proposed && row.contrast.points && *row.contrast.points > 0 && row.with.empty(); }

const CauseRow* largest_gain(const std::vector<CauseRow>& rows) {
  const CauseRow* best = nullptr;
  for (const CauseRow& row : rows)
    if (counts(row) && (best == nullptr || *row.contrast.points > *best->contrast.points)) best = &row;
  return best;
}

void judge(CauseRow& row, const CauseRow* best, double margin, double alpha) {
  const Contrast& c = row.contrast;
  const std::string pair = c.run + " against " + c.against;
  if (!c.points) {
    row.word = "undecided";
    row.reason = "undecided: " + c.refused;
    return;
  }
  const std::string evidence = pair + ": " + points_text(*c.points) + ", 95 % interval " + interval_text(c.interval) + " (" +
                               c.test + ", " + p_words(c.p) + ", Holm-adjusted " + p_words(row.adjusted) + ")";
  if (!row.with.empty()) {
    row.word = "undecided";
    row.reason = "undecided: the pair also changes what " + joined(row.with) + " is about, so it tests neither alone; " + evidence;
    return;
  }
  if (c.interval.low >= -margin && c.interval.high <= margin) {
    row.word = "ruled out";
    row.reason = "ruled out as what alone makes the difference: the interval lies within ±" + fixed(margin, 1) + " points; " + evidence;
    return;
  }
  if (row.adjusted < alpha) {
    row.word = "effect";
    const bool open = *c.points > 0 && best != nullptr && best->adjusted >= alpha;   // it may be smaller than the cause
    row.reason = std::string(*c.points > 0 ? "helps, " : "harms, ") +
                 (open ? "but the larger gain of " + best->cause.name + " is not settled" : "and is not the cause found") + "; " + evidence;
    return;
  }
  row.word = "undecided";
  std::string needs;
  const double half = std::max(c.interval.high - *c.points, *c.points - c.interval.low);
  if (const std::int64_t seeds = seeds_to_decide(row, margin, alpha); seeds > 0) needs = std::to_string(seeds) + " seeds";
  if (needs.empty())
    if (const auto problems = problems_to_rule_out(*c.points, half, c.problems * c.seeds, margin))
      needs = std::to_string(*problems) + " test problems";
  row.reason = "undecided: the interval reaches beyond ±" + fixed(margin, 1) + " points; " + evidence + "; " +
               (needs.empty() ? "a difference of this size lies outside the margin, so more problems would not rule it out"
                              : "about " + needs + " would decide if the difference stays as it is");
}

std::string toml_string(const std::string& plain) {
  std::string out = "\"";
  for (const char c : plain) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

// Seeds to run so that both arms have `count` in common: "4,5".
std::string missing_seeds(const Arm& run, const Arm& against, std::int64_t count) {
  std::set<std::int64_t> of_run, both;
  for (const LoggedRun* each : run.runs) of_run.insert(each->result.seed);
  for (const LoggedRun* each : against.runs)
    if (of_run.count(each->result.seed) != 0) both.insert(each->result.seed);
  std::string words;
  for (std::int64_t seed = 1, have = static_cast<std::int64_t>(both.size()); have < count; ++seed)
    if (both.count(seed) == 0) {
      words += (words.empty() ? "" : ",") + std::to_string(seed);
      ++have;
    }
  return words;
}

void find_next(CauseTable& table, const SeriesLog& log, const std::vector<Arm>& arms, double alpha) {
  std::map<std::string, std::vector<std::string>> missing;   // run -> causes that lack its figure
  std::vector<std::string> order;
  for (const CauseRow& row : table.rows) {
    if (row.word != "undecided" || row.proposed) continue;
    const auto lacks = [&](const std::string& id) {
      const Arm* arm = find_arm(arms, id);
      if (arm != nullptr && level(*arm, true)) return;
      if (missing.count(id) == 0) order.push_back(id);
      missing[id].push_back(row.cause.name);
    };
    if (!row.contrast.points) {
      lacks(row.cause.run);
      lacks(row.cause.against);
    }
    if (row.with.empty()) continue;
    bool clean = false;
    for (std::size_t i = 0; i < row.offers.size(); ++i) clean |= row.offer_reasons[i].ends_with(" alone");
    if (clean) continue;
    // No pair changes this alone: a new run that does.
    const std::vector<std::string> keys = own_keys(row, table.rows);
    const Arm* run = find_arm(arms, row.cause.run);
    if (run == nullptr || keys == row.keys) continue;   // about several keys together, each with a pair of its own
    NextRun next;
    next.what = "a new run: " + row.cause.against + " with " + joined(keys) + " of " + row.cause.run + " and nothing else changed";
    next.snippet = "id = " + toml_string(row.cause.against + "-" + row.cause.run) + "\nbase = " +
                   toml_string(log.id + "/" + row.cause.against) + "\nbaseline = " +
                   toml_string(log.id + "/" + row.cause.against) + "\nchange = {";
    for (std::size_t i = 0; i < keys.size(); ++i)
      next.snippet += (i > 0 ? ", " : " ") + toml_string(keys[i]) + " = " + run->any().config.at(keys[i]);
    next.snippet += " }";
    next.settles = {row.cause.name};
    table.next.push_back(std::move(next));
  }
  for (const std::string& id : order) {
    NextRun next;
    next.id = id;
    next.what = id + " to its last step";
    next.command = "assay run " + log.id + "/" + id;
    next.settles = missing.at(id);
    table.next.push_back(std::move(next));
  }
  for (const CauseRow& row : table.rows) {
    if (row.word != "undecided" || row.proposed || !row.contrast.points || !row.with.empty()) continue;
    const std::int64_t seeds = row.contrast.seeds > 1 ? seeds_to_decide(row, table.margin, alpha) : row.contrast.seeds + 2;
    if (seeds == 0) continue;
    NextRun next;
    next.id = row.cause.run;
    next.what = row.cause.run + " and " + row.cause.against + " with " + std::to_string(seeds) + " seeds";
    next.command = "assay run " + log.id + " --only " + row.cause.against + "," + row.cause.run + " --seeds ";
    next.command += missing_seeds(*find_arm(arms, row.cause.run), *find_arm(arms, row.cause.against), std::min<std::int64_t>(seeds, 20));
    next.settles = {row.cause.name};
    table.next.push_back(std::move(next));
  }
  std::stable_sort(table.next.begin(), table.next.end(),
                   [](const NextRun& a, const NextRun& b) { return a.settles.size() > b.settles.size(); });
}

}  // namespace

const CauseRow* CauseTable::found() const {
  for (const CauseRow& row : rows)
    if (row.word == "found") return &row;
  return nullptr;
}

const CauseRow* CauseTable::leading() const {
  const CauseRow* best = largest_gain(rows);
  if (best == nullptr || best->word != "undecided") return nullptr;
  const bool hint = best->contrast.p < 0.05 || std::any_of(rows.begin(), rows.end(), [](const CauseRow& row) {
    return counts(row) && row.word == "effect";
  });
  return hint ? best : nullptr;   // otherwise it is the largest of nothing
}

CauseTable judge_causes(const SeriesLog& log, const std::vector<Arm>& arms, double alpha) {
  CauseTable table;
  const auto add = [&](const DeclaredCause& cause, bool proposed) {
    CauseRow row;
    row.cause = cause;
    row.proposed = proposed;
    const Arm *run = find_arm(arms, cause.run), *against = find_arm(arms, cause.against);
    if (run != nullptr && against != nullptr) {
      row.keys = differing_keys(run->any(), against->any());
      row.contrast = contrast(*run, *against);
    } else {
      row.contrast.run = cause.run;
      row.contrast.against = cause.against;
      row.contrast.refused = "there is no run of " + (run == nullptr ? cause.run : cause.against);
    }
    table.rows.push_back(std::move(row));
  };
  for (const DeclaredCause& cause : log.causes) add(cause, false);
  // Pairs that nobody declared: runs that differ in exactly one key, each in the series' order, later against earlier.
  constexpr std::size_t kMostProposed = 40;
  const Configs configs(arms);
  std::size_t proposed = 0;
  for (std::size_t i = 0; i < arms.size(); ++i)
    for (std::size_t k = 0; k < i; ++k) {
      if (configs.count(i, k) != 1) continue;
      const bool declared = std::any_of(log.causes.begin(), log.causes.end(), [&](const DeclaredCause& cause) {
        return (cause.run == arms[i].id && cause.against == arms[k].id) || (cause.run == arms[k].id && cause.against == arms[i].id);
      });
      if (declared) continue;
      if (++proposed <= kMostProposed) add({differing_keys(arms[i].any(), arms[k].any()).front(), arms[i].id, arms[k].id, "", ""}, true);
    }
  table.not_listed = proposed > kMostProposed ? static_cast<std::int64_t>(proposed - kMostProposed) : 0;
  find_confounded(table.rows);
  for (CauseRow& row : table.rows)    // a proposed pair is about one key: it is never confounded
    if (row.proposed) row.with.clear();
    else std::erase_if(row.with, [&](const std::string& name) {
      return std::none_of(log.causes.begin(), log.causes.end(), [&](const DeclaredCause& cause) { return cause.name == name; });
    });

  std::vector<double> p;
  std::vector<CauseRow*> tested;
  for (CauseRow& row : table.rows)
    if (row.contrast.points && !row.proposed) {
      p.push_back(row.contrast.p);
      tested.push_back(&row);
    }
  const std::vector<double> adjusted = holm(p);
  for (std::size_t i = 0; i < tested.size(); ++i) tested[i]->adjusted = adjusted[i];
  p.clear();
  tested.clear();
  for (CauseRow& row : table.rows)
    if (row.contrast.points && row.proposed) {
      p.push_back(row.contrast.p);
      tested.push_back(&row);
    }
  const std::vector<double> others = holm(p);
  for (std::size_t i = 0; i < tested.size(); ++i) tested[i]->adjusted = others[i];

  const CauseRow* best = largest_gain(table.rows);
  // The largest gain may turn out to be the cause although it is not significant yet: then no smaller one is called found.
  const CauseRow* found = best != nullptr && best->adjusted < alpha ? best : nullptr;
  table.margin = found != nullptr ? log.cause_margin * *found->contrast.points : 5;
  table.margin_reason = found != nullptr
                            ? shortest(100 * log.cause_margin) + " % of the effect of the cause found, " + found->cause.name
                            : "5 points, since no cause has been found";
  for (CauseRow& row : table.rows) {
    if (&row == found) {
      row.word = "found";
      row.reason = "found: " + row.contrast.run + " against " + row.contrast.against + ": " +
                   points_text(*row.contrast.points) + ", 95 % interval " + interval_text(row.contrast.interval) + " (" +
                   row.contrast.test + ", " + p_words(row.contrast.p) + ", Holm-adjusted " + p_words(row.adjusted) +
                   "), the largest gain";
      continue;
    }
    judge(row, best, table.margin, alpha);
    if (row.word == "undecided" && !row.proposed) offer(row, table.rows, arms, configs);
  }
  find_next(table, log, arms, alpha);
  return table;
}

}  // namespace assay::report
