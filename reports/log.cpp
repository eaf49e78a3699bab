// The log's first parts: title, summary, results. Runs: log_runs.cpp; comparisons, causes and the rest: log_causes.cpp.
#include "reports/log.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "reports/log_parts.h"
#include "reports/pictures.h"
#include "reports/text.h"

namespace assay::report {

std::string points_cell(double points) {
  const std::string words = fixed(points, 1);
  return words.starts_with('-') || words == "0.0" ? words : "+" + words;
}

std::string joined(const std::vector<std::string>& words) {
  std::string all;
  for (std::size_t i = 0; i < words.size(); ++i) all += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  return all;
}

std::string p_words(double p) { return p < 0.001 ? "p < .001" : "p = " + p_value(p); }

Line sourced(const std::string& sentence, const std::vector<Source>& sources) {
  Line line;
  std::string plain;
  const auto digit = [&](std::size_t at) { return at < sentence.size() && sentence[at] >= '0' && sentence[at] <= '9'; };
  for (std::size_t i = 0; i < sentence.size();) {
    const char before = i == 0 ? ' ' : sentence[i - 1];
    std::size_t end = i + (sentence[i] == '+' || sentence[i] == '-' ? 1 : 0);
    const bool begins = std::string_view(" (<").find(before) != std::string_view::npos && (digit(end) || (end < sentence.size() && sentence[end] == '.' && digit(end + 1)));
    if (begins) {
      while (digit(end)) ++end;
      if (end < sentence.size() && sentence[end] == '.' && digit(end + 1))
        for (++end; digit(end);) ++end;
    }
    const char after = end < sentence.size() ? sentence[end] : ' ';
    if (!begins || std::string_view(" ,;:.)").find(after) == std::string_view::npos || sentence.compare(i, 13, "95 % interval") == 0) {
      plain += sentence[i++];
      continue;
    }
    if (!plain.empty()) line.push_back(text(std::exchange(plain, "")));
    line.push_back(number(sentence.substr(i, end - i), sources));
    i = end;
  }
  if (!plain.empty()) line.push_back(text(plain));
  return line;
}

Line published_cell(const RunResult& run) {
  if (!run.published_first && !run.published_last) return {text("-")};
  Line line;
  const auto add = [&](const std::optional<double>& value, std::int64_t step) {
    if (value) line.push_back(number(as_published(*value), {{run.number, run.id, run.seed, step, "accuracy", shortest(*value) + " %, as published for the original of this run"}}));
    else line.push_back(text("-"));
  };
  add(run.published_first, 0);
  line.push_back(text(" → "));
  add(run.published_last, run.steps);
  return line;
}

Line level_cell(const std::optional<Level>& level, int decimals) {
  if (!level) return {text("-")};
  return {number(fixed(level->percent.mean, decimals) + (level->other_quant ? "‡" : ""), level->sources)};
}

namespace {

std::string statuses(const Arm& arm, const CompareOptions& options) {
  std::map<std::string, int> words;
  std::vector<std::string> order;
  for (const LoggedRun* run : arm.runs) {
    const std::string word = verdict(run->result, options).word;
    if (words[word]++ == 0) order.push_back(word);
  }
  if (order.size() == 1) return order.front();
  std::string all;
  for (const std::string& word : order) all += (all.empty() ? "" : ", ") + std::to_string(words[word]) + " " + word;
  return all;
}

Part title_part(const SeriesLog& log) {
  Part part{"title", {}};
  part.blocks.push_back(Heading{1, log.title.empty() ? log.id : log.title, "top"});
  std::map<std::string, int> states;
  for (const LoggedRun& run : log.runs) ++states[run.result.excluded.empty() ? run.result.state : "excluded"];
  std::string status;
  for (const char* state : {"succeeded", "running", "starting", "queued", "blocked", "failed", "killed", "stalled", "lost", "skipped", "excluded"})
    if (states.count(state) != 0) status += (status.empty() ? "" : ", ") + std::to_string(states[state]) + " " + state;
  List list;
  list.items.push_back({strong("Series: "), code(log.id)});
  if (!log.dates.empty()) list.items.push_back({strong("Dates: "), text(joined(log.dates))});
  if (!log.goal.empty()) list.items.push_back({strong("Goal: "), text(log.goal)});
  if (!log.notes.empty()) list.items.push_back({strong("Notes: "), text(log.notes)});
  for (const std::string& remark : log.remarks) list.items.push_back({strong("Note: "), text(remark)});
  list.items.push_back({strong("Status: "), text(std::to_string(log.runs.size()) + " runs: " + (status.empty() ? "none" : status) +
                                                 (log.earlier.empty() ? "" : "; besides, " + std::to_string(log.earlier.size()) +
                                                                                 " replaced by a later run of the same id and seed, or made to verify one"))});
  if (!log.not_run.empty()) list.items.push_back({strong("Not run: "), text(joined(log.not_run))});
  if (!log.records_source.empty()) list.items.push_back({strong("Source: "), text("imported records: " + log.records_source)});
  part.blocks.push_back(std::move(list));
  return part;
}

Part summary_part(const Facts& facts) {
  Part part{"summary", {Heading{2, "Summary", "summary"}}};
  List list;
  if (const CauseRow* found = facts.causes.found()) {
    Line line = {strong("The cause found: " + found->cause.name + ". ")};
    for (Inline& piece : sourced(found->reason.substr(found->reason.find(": ") + 2) + ".", found->contrast.sources)) line.push_back(std::move(piece));
    list.items.push_back(std::move(line));
  } else if (const CauseRow* leading = facts.causes.leading()) {
    Line line = {strong("No cause is settled; the largest gain: " + leading->cause.name + ". ")};
    for (Inline& piece : sourced(leading->reason.substr(leading->reason.find("; ") + 2) + ".", leading->contrast.sources)) line.push_back(std::move(piece));
    list.items.push_back(std::move(line));
  } else if (!facts.log.causes.empty())
    list.items.push_back({strong("No cause has been found: "), text("no pair shows a significant gain that it tests alone.")});
  // Names of causes may have commas in them.
  std::map<std::string, std::string> by_word;
  for (const CauseRow& row : facts.causes.rows)
    if (!row.proposed) by_word[row.word] += (by_word[row.word].empty() ? "" : "; ") + row.cause.name;
  for (const auto& [word, label] : {std::pair("ruled out", "Ruled out: "), {"effect", "With an effect of their own: "}, {"undecided", "Undecided: "}})
    if (const auto names = by_word.find(word); names != by_word.end()) list.items.push_back({text(label + names->second + ".")});
  if (facts.best != nullptr) {
    const auto level_of_best = level(*facts.best, true);
    list.items.push_back({text("Best: "), code(facts.best->id), text(" with "),
                          number(fixed(level_of_best->percent.mean, 1) + " %" + (level_of_best->other_quant ? "‡" : ""), level_of_best->sources),
                          text(" at step " + std::to_string(level_of_best->step) + ", 95 % interval "),
                          number(fixed(level_of_best->pooled.low, 1) + " to " + fixed(level_of_best->pooled.high, 1), level_of_best->sources),
                          text(".")});
  }
  if (list.items.empty()) list.items.push_back({text("Nothing has been measured yet.")});
  part.blocks.push_back(std::move(list));
  std::vector<Line> noticed = notices(facts.log, facts.arms);
  if (!noticed.empty()) {
    part.blocks.push_back(Heading{3, "To be read with care", "care"});
    part.blocks.push_back(List{std::move(noticed)});
  }
  return part;
}

Part results_part(const Facts& facts) {
  Part part{"results", {Heading{2, "Results", "results"}}};
  bool several = false, marks = false, any_published = false;
  for (const Arm& arm : facts.arms) {
    several |= arm.runs.size() > 1;
    any_published |= arm.any().result.published_first || arm.any().result.published_last;
  }
  struct Row {
    const Arm* arm;
    std::optional<Level> first, last;
    std::optional<Contrast> against;
    double adjusted = 1;
  };
  std::vector<Row> rows;
  std::vector<double> p;
  std::set<std::int64_t> steps;
  for (const Arm& arm : facts.arms) {
    Row row{&arm, level(arm, false), level(arm, true), {}, 1};
    if (row.last) steps.insert(row.last->step);
    marks |= (row.first && row.first->other_quant) || (row.last && row.last->other_quant);
    const std::string& baseline = arm.any().result.baseline;
    if (const Arm* other = baseline.empty() ? nullptr : find_arm(facts.arms, baseline)) row.against = contrast(arm, *other);
    if (row.against && row.against->points) p.push_back(row.against->p);
    rows.push_back(std::move(row));
  }
  const std::vector<double> adjusted = holm(p);
  std::size_t at = 0;
  for (Row& row : rows)
    if (row.against && row.against->points) row.adjusted = adjusted[at++];

  TableBlock table;
  const std::string last = steps.size() == 1 ? "step " + std::to_string(*steps.begin()) : "last step";
  table.heads = {{"id"}, {"description"}, {"format"}, {"hook"}, {"blocking"}, {"STE"}};
  if (several) table.heads.push_back({"seeds", true});
  table.heads.push_back({"step 0", true});
  table.heads.push_back({last, true});
  table.heads.push_back({"95 % interval", true});
  if (several) table.heads.push_back({"over seeds", true});
  for (const char* head : {"baseline", "difference", "its 95 % interval", "p", "Holm"})
    table.heads.push_back({head, std::string(head) != "baseline"});
  if (any_published) table.heads.push_back({"published", true});
  table.heads.push_back({"status"});
  std::vector<Line> refused;
  std::set<std::string> tests;
  for (const Row& row : rows) {
    const RunResult& run = row.arm->any().result;
    const auto words = [](const std::string& word) { return Line{text(word.empty() ? "-" : word)}; };
    std::vector<Line> cells = {{code(run.id)}, words(run.title), words(run.format), words(run.hook), words(run.blocking), words(run.ste)};
    if (several) {
      const std::string all = std::to_string(row.arm->runs.size());
      const std::int64_t measured = row.last ? row.last->seeds : 0;
      cells.push_back({text(measured == std::ssize(row.arm->runs) ? all : std::to_string(measured) + " of " + all)});
    }
    cells.push_back(level_cell(row.first, 1));
    cells.push_back(level_cell(row.last, 1));
    cells.push_back(row.last ? Line{number(fixed(row.last->pooled.low, 1) + "–" + fixed(row.last->pooled.high, 1), row.last->sources)} : words(""));
    if (several)
      cells.push_back(row.last && row.last->percent.interval
                          ? Line{number(fixed(row.last->percent.interval->low, 1) + "–" + fixed(row.last->percent.interval->high, 1), row.last->sources)}
                          : words(""));
    cells.push_back(row.against ? Line{code(row.against->against)} : words(run.baseline));
    if (row.against && row.against->points) {
      const Contrast& c = *row.against;
      cells.push_back({number(points_cell(*c.points), c.sources)});
      cells.push_back({number(fixed(c.interval.low, 1) + " to " + fixed(c.interval.high, 1), c.sources)});
      cells.push_back({number(p_value(c.p), c.sources)});
      cells.push_back({number(p_value(row.adjusted), c.sources)});
      tests.insert(c.test);
      if (!c.not_paired.empty())
        refused.push_back({code(run.id), text(" and "), code(c.against), text(" are not compared problem by problem: " + c.not_paired + "; " + c.test + " instead")});
    } else {
      for (int i = 0; i < 4; ++i) cells.push_back(words(""));
      if (!run.baseline.empty())
        refused.push_back({code(run.id), text(": no difference to "), code(run.baseline),
                           text(": " + (row.against ? row.against->refused : "there is no run of it in this series"))});
    }
    if (any_published) cells.push_back(published_cell(run));
    cells.push_back(words(statuses(*row.arm, facts.options)));
    table.rows.push_back(std::move(cells));
  }
  const auto note = [&](const std::string& words) { table.notes.push_back({text(words)}); };
  note("step 0, " + last + ": accuracy in % after that many training steps" + (several ? ", the mean over the seeds; seeds: those that have an accuracy at the last step" : ""));
  note("95 % interval: Wilson score interval of it" + std::string(several ? ", all seeds' problems taken together; over seeds: Student's t over the seeds' accuracies" : ""));
  if (!tests.empty()) {
    std::string all;
    for (const std::string& test : tests) all += (all.empty() ? "" : "; ") + test;
    note("difference: to the baseline's runs of the same seeds, in percentage points; p by: " + all + "; Holm: p adjusted for " +
         std::to_string(p.size()) + " comparisons in this table");
  }
  if (facts.problems > 0) {
    const auto near_base = detectable(facts.base / 100, facts.problems), near_middle = detectable(0.5, facts.problems);
    if (near_base && near_middle)
      note("with " + std::to_string(facts.problems) + " test problems and one seed, a gain of " + fixed(100 * *near_base, 1) +
           " points over " + fixed(facts.base, 1) + " %, or of " + fixed(100 * *near_middle, 1) +
           " points over 50 %, is what an unpaired test at the 5 % level sees four times out of five; smaller ones it mostly misses");
  }
  note("status: " + status_rule(facts.options));
  if (marks) note("‡ measured under another quantization than trained under, or under one that is not known");
  note("-: nothing to show");
  part.blocks.push_back(std::move(table));
  if (!refused.empty()) part.blocks.push_back(List{std::move(refused)});
  static const std::map<std::string, std::string> kCaptions = {
      {"accuracy", "Accuracy by training step; bars: 95 % Wilson intervals over all seeds' problems; bands: from the lowest to the highest seed; in grey: the other panels' curves"},
      {"score", "Mean training score by step; bands: from the lowest to the highest seed; in grey: the other panels' curves"},
      {"differences", "Differences to the baselines at the last step, with 95 % intervals"},
      {"gradient", "Adapter tensors with a gradient, by layer, as the preflight measured it"},
      {"error", "Quantization error of the weights, by layer"}};
  for (const Plot& plot : plots(facts.log))
    part.blocks.push_back(Picture{plot.name, kCaptions.at(plot.name) + (plot.note.empty() ? "" : ". " + plot.note)});

  TableBlock missing;
  missing.caption = "Unfinished, failed, lost and excluded runs";
  missing.heads = {{"run", true}, {"id"}, {"seed", true}, {"state"}, {"why"}};
  const auto list = [&](const LoggedRun& run, const std::string& state, const std::string& why) {
    missing.rows.push_back({{text(std::to_string(run.result.number))}, {code(run.result.id)}, {text(std::to_string(run.result.seed))},
                            {text(state)}, {text(why)}});
  };
  for (const LoggedRun& run : facts.log.runs) {
    const Verdict judged = verdict(run.result, facts.options);
    if (!run.result.excluded.empty()) list(run, "excluded", run.result.excluded);
    else if (run.result.state != "succeeded" || judged.word == "unfinished") list(run, judged.word, judged.sentence);
  }
  for (const LoggedRun& run : facts.log.earlier)
    list(run, run.result.state, (run.repeats.empty() ? "a later run of the same id and seed replaces it" : "made by assay verify to repeat run " + run.repeats) + (run.result.state_detail.empty() ? "" : "; " + run.result.state_detail));
  if (!missing.rows.empty()) part.blocks.push_back(std::move(missing));
  return part;
}

}  // namespace

Document series_document(const SeriesLog& log) {
  Facts facts{log, arms_of(log), {}, {}, nullptr, 0, 0};
  facts.options.success_accuracy = log.success_accuracy;
  facts.causes = judge_causes(log, facts.arms);
  double best = -1;
  std::vector<double> firsts;
  for (const Arm& arm : facts.arms) {
    if (const auto last = level(arm, true); last && last->percent.mean > best) {
      best = last->percent.mean;
      facts.best = &arm;
    }
    if (const auto first = level(arm, false)) {
      firsts.push_back(first->percent.mean);
      facts.problems = std::max(facts.problems, first->problems / first->seeds);
    }
  }
  facts.base = mean_of(firsts).mean;
  Document document{log.title.empty() ? log.id : log.title, {}};
  document.parts = {title_part(log), summary_part(facts), results_part(facts), runs_part(facts), best_part(facts),
                    formats_part(facts), causes_part(facts), environment_part(facts), next_part(facts)};
  return document;
}

}  // namespace assay::report
