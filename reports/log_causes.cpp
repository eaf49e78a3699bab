// Comparison with the best run, formats, causes, environment, next steps.
#include <algorithm>
#include <map>
#include <set>

#include "reports/log_parts.h"
#include "reports/text.h"

namespace assay::report {
namespace {

std::vector<Source> both(const Level& a, const Level& b) {
  std::vector<Source> sources = a.sources;
  sources.insert(sources.end(), b.sources.begin(), b.sources.end());
  return sources;
}

std::string said(const Claim& claim, double value) {
  return fixed(value, static_cast<int>(claim.decimals)) + (claim.unit == "x" ? "x" : " " + claim.unit);
}

std::optional<double> last_score(const Arm& arm, std::vector<Source>& sources) {
  std::vector<double> values;
  for (const LoggedRun* run : arm.runs) {
    if (run->scores.empty()) continue;
    const auto& [step, share] = run->scores.back();
    values.push_back(100 * share);
    sources.push_back({run->result.number, run->result.id, run->result.seed, step, "critic/score/mean", shortest(share)});
  }
  if (values.empty()) return std::nullopt;
  return mean_of(values).mean;
}

std::optional<double> error_of(const Arm& arm) {
  std::vector<double> values;
  for (const LoggedRun* run : arm.runs)
    if (const auto& error = run->recorded.quantization_error ? run->recorded.quantization_error : run->mean_weight_error)
      values.push_back(*error);
  if (values.empty()) return std::nullopt;
  return mean_of(values).mean;
}

}  // namespace

Part best_part(const Facts& facts) {
  Part part{"best", {Heading{2, "Against the best run", "best"}}};
  if (facts.best == nullptr) {
    part.blocks.push_back(Paragraph{{text("No run has an accuracy at its last step yet.")}});
    return part;
  }
  const Level best = level(*facts.best, true).value();
  part.blocks.push_back(Paragraph{{text("The best is "), code(facts.best->id), text(" with "),
                                   number(fixed(best.percent.mean, 2) + " %", best.sources),
                                   text(" at step " + std::to_string(best.step) + ".")}});
  TableBlock table;
  table.heads = {{"id"}, {"accuracy, %", true}, {"best is … times it", true}, {"share of the best, %", true}, {"difference to it", true},
                 {"its 95 % interval", true}, {"p", true}, {"Holm", true}};
  std::vector<std::pair<const Arm*, Contrast>> rows;
  std::vector<double> p;
  for (const Arm& arm : facts.arms) {
    if (&arm == facts.best) continue;
    rows.emplace_back(&arm, contrast(arm, *facts.best));
    if (rows.back().second.points) p.push_back(rows.back().second.p);
  }
  const std::vector<double> adjusted = holm(p);
  std::size_t at = 0;
  for (const auto& [arm, c] : rows) {
    const auto last = level(*arm, true);
    if (!last || !c.points) {
      table.rows.push_back({{code(arm->id)}, level_cell(last, 2), {text("-")}, {text("-")}, {text("-")}, {text("-")}, {text("-")}, {text("-")}});
      continue;
    }
    const std::vector<Source> sources = both(*last, best);
    const bool any = last->percent.mean > 0;
    table.rows.push_back({{code(arm->id)},
                          level_cell(last, 2),
                          {any ? number(fixed(best.percent.mean / last->percent.mean, 1), sources) : text("-")},
                          {number(fixed(100 * last->percent.mean / best.percent.mean, 1), sources)},
                          {number(fixed(*c.points, 2), sources)},
                          {number(fixed(c.interval.low, 1) + " to " + fixed(c.interval.high, 1), sources)},
                          {number(p_value(c.p), sources)},
                          {number(p_value(adjusted[at++]), sources)}});
  }
  table.notes.push_back({text("difference: accuracy minus that of the best, percentage points; Holm: p adjusted for the " + std::to_string(p.size()) + " comparisons of this table")});
  part.blocks.push_back(std::move(table));

  const std::vector<ClaimCheck> checks = check_claims(facts.log, facts.arms);
  if (checks.empty()) return part;
  TableBlock claims;
  claims.caption = "Figures as they were worked out, and as they come out";
  claims.heads = {{"figure"}, {"reported", true}, {"computed", true}, {"agrees"}, {"note"}};
  for (const ClaimCheck& check : checks)
    claims.rows.push_back({{text(check.claim->what)},
                           {number(said(*check.claim, check.claim->said), {{0, "", 0, -1, "figure", "as reported" + (facts.log.records_source.empty() ? "" : " in " + facts.log.records_source)}})},
                           {check.computed ? number(said(*check.claim, *check.computed), check.sources) : text("-")},
                           {text(!check.computed ? "-" : check.agrees ? "yes" : "no")},
                           {text(check.claim->note.empty() ? "-" : check.claim->note)}});
  part.blocks.push_back(std::move(claims));
  return part;
}

Part formats_part(const Facts& facts) {
  Part part{"formats", {Heading{2, "Formats", "formats"}}};
  TableBlock table;
  table.heads = {{"id"}, {"format"}, {"quantization error, %", true}, {"step 0", true}, {"last step", true}, {"training score", true}};
  std::vector<Line> lines;
  for (std::size_t i = 0; i < facts.arms.size(); ++i)
    for (std::size_t k = 0; k < i; ++k) {
      const Arm &later = facts.arms[i], &earlier = facts.arms[k];
      if (differing_keys(later.any(), earlier.any()) != std::vector<std::string>{"quant.format"}) continue;
      if (later.any().result.format == "none" || earlier.any().result.format == "none") continue;
      const std::string pair = later.id + " against " + earlier.id;
      for (const Arm* arm : {&earlier, &later}) {
        std::vector<Source> sources;
        const auto score = last_score(*arm, sources);
        const auto error = error_of(*arm);
        const RunResult& run = arm->any().result;
        table.rows.push_back({{code(arm->id)}, {text(run.format)},
                              {error ? number(fixed(*error, 1), {{run.number, run.id, run.seed, -1, "relative quantization error", shortest(rounded(*error)) + " %"}}) : text("-")},
                              level_cell(level(*arm, false), 2), level_cell(level(*arm, true), 2),
                              {score ? number(fixed(*score, 2), sources) : text("-")}});
      }
      const auto a0 = level(later, false), b0 = level(earlier, false), a1 = level(later, true), b1 = level(earlier, true);
      std::vector<Source> score_sources;
      const auto sa = last_score(later, score_sources), sb = last_score(earlier, score_sources);
      Line line = {code(pair), text(": ")};
      const Contrast c = contrast(later, earlier);
      if (c.points && a1 && b1) {
        line.push_back(text("last step "));
        line.push_back(number(fixed(*c.points, 2), both(*a1, *b1)));
        line.push_back(text(" points ("));
        line.push_back(number(fixed(100 * a1->percent.mean / b1->percent.mean, 1) + " %", both(*a1, *b1)));
        for (Inline& piece : sourced(" of it; 95 % interval " + fixed(c.interval.low, 1) + " to " + fixed(c.interval.high, 1) + ", " + p_words(c.p) + ", " + c.test + ")", c.sources))
          line.push_back(std::move(piece));
      } else {
        line.push_back(text(c.refused));
      }
      if (a0 && b0) {
        line.push_back(text("; step 0 "));
        line.push_back(number(fixed(a0->percent.mean - b0->percent.mean, 2), both(*a0, *b0)));
        line.push_back(text(" points"));
      }
      if (sa && sb) {
        line.push_back(text("; training score "));
        line.push_back(number(fixed(*sa - *sb, 2), score_sources));
        line.push_back(text(" points"));
      }
      lines.push_back(std::move(line));
    }
  if (table.rows.empty()) {
    part.blocks.push_back(Paragraph{{text("No two runs differ in the format alone.")}});
    return part;
  }
  part.blocks.push_back(std::move(table));
  part.blocks.push_back(List{std::move(lines)});
  return part;
}

Part causes_part(const Facts& facts) {
  Part part{"causes", {Heading{2, "Causes", "causes"}}};
  const auto table_of = [&](bool proposed) {
    TableBlock table;
    table.heads = {{"cause"}, {"pair"}, {"differs in"}, {"difference", true}, {"95 % interval", true}, {"p", true}, {"Holm", true}, {"verdict"}};
    for (const CauseRow& row : facts.causes.rows) {
      if (row.proposed != proposed) continue;
      const Contrast& c = row.contrast;
      std::string word = row.word;
      if (word == "undecided" && !c.points) word = "undecided: " + c.refused;
      if (!row.cause.verdict.empty()) word += "; decided: " + row.cause.verdict;
      const auto cell = [&](const std::string& words) { return c.points ? Line{number(words, c.sources)} : Line{text("-")}; };
      table.rows.push_back({{text(row.cause.name)},
                            {code(c.run), text(" against "), code(c.against)},
                            {text(row.keys.empty() ? "-" : joined(row.keys))},
                            cell(c.points ? points_cell(*c.points) : ""),
                            cell(fixed(c.interval.low, 1) + " to " + fixed(c.interval.high, 1)),
                            cell(p_value(c.p)),
                            cell(p_value(row.adjusted)),
                            {text(word)}});
    }
    return table;
  };
  TableBlock declared = table_of(false), proposed = table_of(true);
  if (declared.rows.empty() && proposed.rows.empty()) {
    part.blocks.push_back(Paragraph{{text("No cause is declared, and no two runs differ in exactly one config key.")}});
    return part;
  }
  if (!declared.rows.empty()) {
    declared.notes.push_back({text("found: the largest gain of all, and significant; ruled out: the 95 % interval of the difference lies within ±" +
                                   fixed(facts.causes.margin, 1) + " points, which is " + facts.causes.margin_reason +
                                   "; effect: significant, and not within it; undecided: none of these")});
    declared.notes.push_back({text("a cause is ruled out by evidence of no effect, not by want of evidence")});
    part.blocks.push_back(std::move(declared));
    List list;
    for (const CauseRow& row : facts.causes.rows) {
      if (row.proposed) continue;
      Line line = {strong(row.cause.name + ": ")};
      for (Inline& piece : sourced(row.reason + ".", row.contrast.sources)) line.push_back(std::move(piece));
      if (!row.cause.note.empty()) line.push_back(text(" " + row.cause.note));
      for (std::size_t i = 0; i < row.offers.size(); ++i) {
        const Contrast& c = row.offers[i];
        line.push_back(text(i == 0 ? " Offered instead: " : "; "));
        line.push_back(code(c.run));
        line.push_back(text(" against "));
        line.push_back(code(c.against));
        line.push_back(text(" (" + row.offer_reasons[i] + "): "));
        if (c.points) {
          line.push_back(number(points_cell(*c.points) + " points, " + p_words(c.p), c.sources));
          for (Inline& piece : sourced(" (95 % interval " + fixed(c.interval.low, 1) + " to " + fixed(c.interval.high, 1) + ", " + c.test + ")", c.sources))
            line.push_back(std::move(piece));
        } else {
          line.push_back(text(c.refused));
        }
        if (i + 1 == row.offers.size()) line.push_back(text("."));
      }
      list.items.push_back(std::move(line));
    }
    part.blocks.push_back(std::move(list));
  }
  if (!proposed.rows.empty()) {
    proposed.caption = "Further pairs that differ in exactly one config key: the causes they test";
    proposed.notes.push_back({text("Holm: adjusted among these pairs")});
    if (facts.causes.not_listed > 0)
      proposed.notes.push_back({text(std::to_string(facts.causes.not_listed) + " further pairs differ in one key and are not listed")});
    part.blocks.push_back(std::move(proposed));
  }
  part.blocks.push_back(Heading{3, "What would settle the causes still open", "settle"});
  if (facts.causes.next.empty()) part.blocks.push_back(Paragraph{{text("No declared cause is open that another run would settle.")}});
  for (const NextRun& next : facts.causes.next) {
    part.blocks.push_back(Paragraph{{text(next.what + ", for " + joined(next.settles) + ":")}});
    part.blocks.push_back(Listing{next.snippet.empty() ? next.command : next.snippet});
  }
  return part;
}

Part environment_part(const Facts& facts) {
  Part part{"environment", {Heading{2, "Environment and commits", "environment"}}};
  std::map<std::string, std::vector<std::string>> machines, builds, code_commits;
  const auto add = [](auto& map, const std::string& key, const LoggedRun& run) {
    if (key.empty()) return;
    auto& ids = map[key];
    const std::string name = run.result.id;
    if (std::find(ids.begin(), ids.end(), name) == ids.end()) ids.push_back(name);
  };
  for (const LoggedRun& run : facts.log.runs) {
    add(machines, run.environment, run);
    add(builds, run.assay_commit, run);
    add(code_commits, run.code_commit.empty() ? "" : run.code_commit + (run.code_dirty ? " (dirty)" : ""), run);
  }
  const auto list = [&](const std::string& label, const auto& map) {
    List items;
    for (const auto& [key, ids] : map)
      items.items.push_back({strong(label + ": "), text(key + (map.size() > 1 ? " (" + joined(ids) + ")" : ""))});
    if (!items.items.empty()) part.blocks.push_back(std::move(items));
  };
  list("Machine", machines);
  list("assay", builds);
  list("Code", code_commits);
  if (!facts.log.commits.empty()) {
    TableBlock table;
    table.caption = "Commits";
    table.heads = {{"commit"}, {"what"}};
    for (const auto& [id, what] : facts.log.commits) table.rows.push_back({{code(id)}, {text(what)}});
    part.blocks.push_back(std::move(table));
  }
  const auto strings = [&](const std::string& heading, const std::vector<std::string>& words) {
    if (words.empty()) return;
    part.blocks.push_back(Heading{3, heading, ""});
    List items;
    for (const std::string& word : words) items.items.push_back({text(word)});
    part.blocks.push_back(std::move(items));
  };
  strings("Files touched", facts.log.files);
  strings("Background", facts.log.background);
  strings("Side problems", facts.log.side_problems);
  if (part.blocks.size() == 1) part.blocks.push_back(Paragraph{{text("Nothing is recorded.")}});
  return part;
}

Part next_part(const Facts& facts) {
  Part part{"next", {Heading{2, "Next steps", "next"}}};
  List list;
  for (const std::string& step : facts.log.next_steps) list.items.push_back({text(step)});
  if (list.items.empty()) part.blocks.push_back(Paragraph{{text("None are written down.")}});
  else part.blocks.push_back(std::move(list));
  if (!facts.log.open_questions.empty()) {
    part.blocks.push_back(Heading{3, "Open questions", ""});
    List open;
    for (const std::string& question : facts.log.open_questions) open.items.push_back({text(question)});
    part.blocks.push_back(std::move(open));
  }
  return part;
}

}  // namespace assay::report
