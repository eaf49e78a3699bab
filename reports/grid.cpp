#include "reports/grid.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "reports/arms.h"
#include "reports/log_parts.h"
#include "reports/text.h"

namespace assay::report {
namespace {

struct Value {
  double number = 0;
  std::string words;
  Source source;
};

std::optional<Value> value_at(const GridRun& row, const std::string& metric, std::int64_t step) {
  const LoggedRun& run = row.run;
  if (metric.empty()) {
    for (const EvalPoint& point : run.evaluations)
      if (point.step == step && point.problems > 0)
        return Value{percent_of(point), fixed(percent_of(point), 1) + (under_other_quant(point) ? "‡" : ""), source_of(run, point)};
    return std::nullopt;
  }
  const auto found = row.metrics.find(metric);
  if (found == row.metrics.end()) return std::nullopt;
  for (const auto& [at, number] : found->second)
    if (at == step)
      return Value{number, std::isfinite(number) ? shortest(rounded(number)) : std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf",
                   {run.result.number, run.result.id, run.result.seed, step, metric, shortest(number)}};
  return std::nullopt;
}

std::int64_t last_step(const GridRun& row, const GridOptions& options) {
  return options.steps.empty() ? row.run.result.steps : options.steps.back();
}

std::vector<std::string> changed_keys(const std::vector<GridRun>& runs) {
  std::set<std::string> keys;
  for (const GridRun& row : runs)
    for (const std::string& key : differing_keys(row.run, runs.front().run)) keys.insert(key);
  return {keys.begin(), keys.end()};
}

std::string config_word(const GridRun& row, const std::string& key) {
  const auto found = row.run.config.find(key);
  if (found == row.run.config.end()) return "-";
  const std::string& value = found->second;   // JSON text; a string without its quotes
  return value.size() >= 2 && value.front() == '"' ? value.substr(1, value.size() - 2) : value;
}

const GridRun* baseline_of(const GridRun& row, const std::vector<GridRun>& runs, const GridOptions& options) {
  const std::string& id = options.baseline.empty() ? row.run.result.baseline : options.baseline;
  const GridRun* found = nullptr;
  for (const GridRun& other : runs)
    if (other.run.result.id == id && &other != &row && other.run.result.seed == row.run.result.seed &&
        (found == nullptr || other.run.result.number > found->run.result.number))
      found = &other;
  return found;
}

// Accuracy: with interval and test. Another metric: the plain difference of its values at the last step.
struct Against {
  std::optional<double> points;
  Interval interval;
  std::optional<double> p;
  std::string id, refused, test;
  std::vector<Source> sources;
};

Against against(const GridRun& row, const std::vector<GridRun>& runs, const GridOptions& options) {
  Against result;
  const GridRun* other = baseline_of(row, runs, options);
  if (other == nullptr) return result;
  result.id = other->run.result.id;
  for (const auto* one : {&row.run.result, &other->run.result})
    if (!one->excluded.empty()) {
      result.refused = one->id + " is excluded: " + one->excluded;
      return result;
    }
  if (options.metric.empty() && options.steps.empty()) {
    const Contrast c = contrast({row.run.result.id, {&row.run}}, {other->run.result.id, {&other->run}});
    result.points = c.points;
    result.interval = c.interval;
    if (c.points) result.p = c.p;
    result.refused = c.refused;
    result.test = c.test;
    result.sources = c.sources;
    return result;
  }
  const auto a = value_at(row, options.metric, last_step(row, options)), b = value_at(*other, options.metric, last_step(*other, options));
  if (!a || !b) result.refused = "no value at the last step of " + (a ? result.id : row.run.result.id);
  else result.points = a->number - b->number, result.sources = {a->source, b->source};
  return result;
}

bool less_word(const std::string& a, const std::string& b) {
  const auto number = [](const std::string& word, double& into) {
    char* end = nullptr;
    into = std::strtod(word.c_str(), &end);
    return end != word.c_str() && *end == '\0';
  };
  double x = 0, y = 0;
  if (number(a, x) && number(b, y)) return x < y;
  return a < b;
}

void sort_rows(std::vector<GridRun>& runs, const GridOptions& options) {
  std::string key = options.sort_by;
  if (key.empty()) return;
  const bool falling = key.front() == '-';
  if (falling) key.erase(0, 1);
  std::vector<std::pair<std::optional<std::string>, std::size_t>> words;   // nothing: stands last either way
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const GridRun& row = runs[i];
    std::optional<std::string> word;
    if (key == "id") word = row.run.result.id;
    else if (key == "series") word = row.series;
    else if (key == "seed") word = std::to_string(row.run.result.seed);
    else if (key == "run") word = std::to_string(row.run.result.number);
    else if (key == "state") word = row.run.result.state;
    else if (key == "value") {
      if (const auto value = value_at(row, options.metric, last_step(row, options))) word = shortest(value->number);
    } else if (key == "difference") {
      if (const Against difference = against(row, runs, options); difference.points) word = shortest(*difference.points);
    } else {
      word = config_word(row, key);
    }
    words.emplace_back(word, i);
  }
  std::stable_sort(words.begin(), words.end(), [&](const auto& a, const auto& b) {
    if (!a.first || !b.first) return a.first.has_value() && !b.first.has_value();
    return falling ? less_word(*b.first, *a.first) : less_word(*a.first, *b.first);
  });
  std::vector<GridRun> sorted;
  for (const auto& [word, place] : words) sorted.push_back(runs[place]);
  runs = std::move(sorted);
}

Document grouped(const std::vector<GridRun>& runs, const GridOptions& options) {
  struct Group {
    std::string word;
    std::vector<double> values;
    std::int64_t correct = 0, problems = 0, missing = 0;
    std::vector<Source> sources;
    bool marks = false;
  };
  std::vector<Group> groups;
  for (const GridRun& row : runs) {
    const std::string word = config_word(row, options.group_by);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& one) { return one.word == word; });
    if (group == groups.end()) group = groups.insert(groups.end(), Group{word, {}, 0, 0, 0, {}, false});
    const auto value = value_at(row, options.metric, last_step(row, options));
    if (!value || row.run.result.state != "succeeded" || !row.run.result.excluded.empty()) {
      ++group->missing;
      continue;
    }
    group->values.push_back(value->number);
    group->sources.push_back(value->source);
    group->marks |= value->words.ends_with("‡");
    if (options.metric.empty())
      for (const EvalPoint& point : row.run.evaluations)
        if (point.step == last_step(row, options)) group->correct += point.correct, group->problems += point.problems;
  }
  TableBlock table;
  table.heads = {{options.group_by}, {"runs", true}, {"without a value", true}, {"mean", true}, {"95 % over runs", true}};
  if (options.metric.empty())
    for (const char* head : {"95 % interval", "difference", "its 95 % interval", "p", "Holm"}) table.heads.push_back({head, true});
  std::vector<double> p;
  for (const Group& group : groups)
    if (&group != &groups.front() && group.problems > 0 && groups.front().problems > 0)
      p.push_back(unpaired(groups.front().correct, groups.front().problems, group.correct, group.problems).p);
  const std::vector<double> adjusted = holm(p);
  std::size_t at = 0;
  for (const Group& group : groups) {
    const Mean mean = mean_of(group.values);
    const auto cell = [&](bool there, const std::string& words) { return there ? Line{number(words, group.sources)} : Line{text("-")}; };
    const auto show = [&](double value) { return options.metric.empty() ? fixed(value, 1) : shortest(rounded(value)); };
    std::vector<Line> cells = {{text(group.word)}, {text(std::to_string(group.values.size()))}, {text(std::to_string(group.missing))},
                               cell(!group.values.empty(), show(mean.mean) + (group.marks ? "‡" : "")),
                               cell(mean.interval.has_value(), mean.interval ? show(mean.interval->low) + "–" + show(mean.interval->high) : "")};
    if (options.metric.empty()) {
      const Interval pooled = wilson(group.correct, group.problems);
      cells.push_back(cell(group.problems > 0, fixed(100 * pooled.low, 1) + "–" + fixed(100 * pooled.high, 1)));
      const Group& first = groups.front();
      if (&group != &first && group.problems > 0 && first.problems > 0) {
        const Interval difference = newcombe(first.correct, first.problems, group.correct, group.problems);
        cells.push_back(cell(true, points_cell(100 * (static_cast<double>(group.correct) / static_cast<double>(group.problems) -
                                                      static_cast<double>(first.correct) / static_cast<double>(first.problems)))));
        cells.push_back(cell(true, fixed(100 * difference.low, 1) + " to " + fixed(100 * difference.high, 1)));
        cells.push_back(cell(true, p_value(p[at])));
        cells.push_back(cell(true, p_value(adjusted[at++])));
      } else {
        for (int i = 0; i < 4; ++i) cells.push_back({text("-")});
      }
    }
    table.rows.push_back(std::move(cells));
  }
  table.notes.push_back({text("mean of " + (options.metric.empty() ? std::string("the accuracy in %") : options.metric) + " at the last step over the runs that ended well; 95 % over runs: Student's t")});
  if (options.metric.empty())
    table.notes.push_back({text("95 % interval: Wilson, all runs' problems together; difference: to the first group, all problems together, two proportions (Newcombe's interval; Fisher where counts are small); the groups' runs may differ in more than this key")});
  if (std::any_of(groups.begin(), groups.end(), [](const Group& group) { return group.marks; }))
    table.notes.push_back({text("‡ some of them measured under another quantization than trained under, or under one that is not known")});
  return {"Comparison", {{"comparison", {std::move(table)}}}};
}

}  // namespace

const std::vector<std::string>& sort_words() {
  static const std::vector<std::string> words = {"id", "series", "seed", "run", "state", "value", "difference"};
  return words;
}

Document grid(const std::vector<GridRun>& given, const GridOptions& options) {
  if (given.empty()) return {"Comparison", {{"comparison", {Paragraph{{text("No runs.")}}}}}};
  if (!options.group_by.empty()) return grouped(given, options);
  std::vector<GridRun> runs = given;
  sort_rows(runs, options);
  std::set<std::string> series;
  std::set<std::int64_t> seeds, steps(options.steps.begin(), options.steps.end());
  std::set<std::pair<std::string, std::int64_t>> names;
  bool repeats = false;
  for (const GridRun& row : runs) {
    series.insert(row.series);
    seeds.insert(row.run.result.seed);
    repeats |= !names.insert({row.series + "/" + row.run.result.id, row.run.result.seed}).second;
    if (options.stepwise) {
      if (options.metric.empty())
        for (const EvalPoint& point : row.run.evaluations) steps.insert(point.step);
      else if (const auto found = row.metrics.find(options.metric); found != row.metrics.end())
        for (const auto& [step, value] : found->second) steps.insert(step);
    } else if (options.steps.empty()) {
      steps.insert({0, row.run.result.steps});
    }
  }
  const std::vector<std::string> keys = options.only_changed ? changed_keys(runs) : std::vector<std::string>{};
  TableBlock table;
  if (repeats) table.heads.push_back({"run", true});
  if (series.size() > 1) table.heads.push_back({"series"});
  table.heads.push_back({"id"});
  if (seeds.size() > 1) table.heads.push_back({"seed", true});
  if (options.only_changed)
    for (const std::string& key : keys) table.heads.push_back({key});
  else
    for (const char* head : {"format", "hook", "blocking", "STE"}) table.heads.push_back({head});
  for (const std::int64_t step : steps) table.heads.push_back({"step " + std::to_string(step), true});
  const bool accuracy = options.metric.empty();
  const bool tested = accuracy && options.steps.empty();
  table.heads.push_back({"baseline"});
  table.heads.push_back({"difference", true});
  if (tested)
    for (const char* head : {"its 95 % interval", "p", "Holm"}) table.heads.push_back({head, true});
  table.heads.push_back({"status"});

  std::vector<Against> differences;
  std::vector<double> p;
  for (const GridRun& row : runs) {
    differences.push_back(against(row, runs, options));
    if (differences.back().p) p.push_back(*differences.back().p);
  }
  const std::vector<double> adjusted = holm(p);
  CompareOptions how;
  how.success_accuracy = options.success_accuracy;
  bool marks = false;
  std::vector<Line> refused;
  std::size_t at = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const GridRun& row = runs[i];
    const RunResult& run = row.run.result;
    const auto word = [](const std::string& words) { return Line{text(words.empty() ? "-" : words)}; };
    std::vector<Line> cells;
    if (repeats) cells.push_back(word(std::to_string(run.number)));
    if (series.size() > 1) cells.push_back(word(row.series));
    cells.push_back({code(run.id)});
    if (seeds.size() > 1) cells.push_back(word(std::to_string(run.seed)));
    if (options.only_changed)
      for (const std::string& key : keys) cells.push_back(word(config_word(row, key)));
    else
      for (const std::string* words : {&run.format, &run.hook, &run.blocking, &run.ste}) cells.push_back(word(*words));
    for (const std::int64_t step : steps) {
      const auto value = value_at(row, options.metric, step);
      if (value) marks |= value->words.ends_with("‡");
      const bool wrong = run.state == "failed" || run.state == "killed" || run.state == "lost" || run.state == "stalled";
      cells.push_back(value ? Line{number(value->words, {value->source})} : word(wrong && step == run.steps ? "!" : "-"));
    }
    const Against& difference = differences[i];
    cells.push_back(difference.id.empty() ? word("") : Line{code(difference.id)});
    cells.push_back(difference.points ? Line{number(accuracy ? points_cell(*difference.points) : shortest(rounded(*difference.points)), difference.sources)} : word(""));
    if (tested) {
      cells.push_back(difference.p ? Line{number(fixed(difference.interval.low, 1) + " to " + fixed(difference.interval.high, 1), difference.sources)} : word(""));
      cells.push_back(difference.p ? Line{number(p_value(*difference.p), difference.sources)} : word(""));
      cells.push_back(difference.p ? Line{number(p_value(adjusted[at++]), difference.sources)} : word(""));
    }
    if (!difference.refused.empty()) refused.push_back({code(run.id), text(": no difference to "), code(difference.id), text(": " + difference.refused)});
    cells.push_back(word(verdict(run, how).word));
    table.rows.push_back(std::move(cells));
  }
  table.notes.push_back({text(accuracy ? "step N: accuracy in % on the test problems after N training steps" : "step N: " + options.metric + " of that training step")});
  if (tested && !p.empty())
    table.notes.push_back({text("difference: to the baseline's run of the same seed at the last step, percentage points; exact McNemar on the same problems, two proportions (Fisher where counts are small) where outcomes are not known or test files differ; Holm: p adjusted for " + std::to_string(p.size()) + " comparisons")});
  if (marks) table.notes.push_back({text("‡ measured under another quantization than trained under, or under one that is not known")});
  for (Line& line : refused) table.notes.push_back(std::move(line));
  return {"Comparison", {{"comparison", {std::move(table)}}}};
}

Document problems_document(const std::string& first, const std::string& second, std::int64_t step, const std::vector<ProblemPair>& all) {
  Document document{"Problems gained and lost", {{"problems", {}}}};
  std::vector<Block>& blocks = document.parts.front().blocks;
  blocks.push_back(Heading{2, "Problems gained and lost: " + second + " against " + first + ", step " + std::to_string(step), "problems"});
  std::int64_t both = 0, neither = 0, gained = 0, lost = 0;
  for (const ProblemPair& pair : all) {
    if (pair.first.correct && pair.second.correct) ++both;
    else if (!pair.first.correct && !pair.second.correct) ++neither;
    else ++(pair.second.correct ? gained : lost);
  }
  blocks.push_back(Paragraph{{text(std::to_string(all.size()) + " problems: " + std::to_string(gained) + " gained, " + std::to_string(lost) +
                                   " lost, " + std::to_string(both) + " right in both, " + std::to_string(neither) + " in neither; exact McNemar " +
                                   p_words(mcnemar_exact(lost, gained)) + ".")}});
  for (const bool won : {true, false}) {
    TableBlock table;
    table.caption = won ? "Gained: right in " + second + " only" : "Lost: right in " + first + " only";
    table.heads = {{"problem", true}, {"question"}, {"right answer"}, {first}, {second}};
    for (const ProblemPair& pair : all) {
      if (pair.first.correct == pair.second.correct || pair.second.correct != won) continue;
      const auto answer = [](const Answer& one) { return Line{text(one.outcome + ": "), code(one.completion)}; };
      table.rows.push_back({{text(std::to_string(pair.index))}, {text(pair.question.empty() ? "-" : pair.question)},
                            {text(pair.gold.empty() ? "-" : pair.gold)}, answer(pair.first), answer(pair.second)});
    }
    if (table.rows.empty()) blocks.push_back(Paragraph{{text(table.caption + ": none.")}});
    else blocks.push_back(std::move(table));
  }
  return document;
}

namespace {

std::string plain(const Line& line) {
  std::string all;
  for (const Inline& piece : line) all += piece.text;
  return all;
}

}  // namespace

std::string table_csv(const Document& document) {
  std::string out;
  for (const Part& part : document.parts)
    for (const Block& block : part.blocks)
      if (const auto* table = std::get_if<TableBlock>(&block)) {
        std::vector<std::string> cells;
        const bool captions = !table->caption.empty();
        if (captions) cells.push_back("table");
        for (const auto& head : table->heads) cells.push_back(head.words);
        if (out.empty()) out += csv_line(cells);
        for (const auto& row : table->rows) {
          cells.clear();
          if (captions) cells.push_back(table->caption);
          for (const Line& cell : row) cells.push_back(plain(cell));
          out += csv_line(cells);
        }
      }
  return out;
}

std::string table_json(const Document& document) {
  using nlohmann::ordered_json;
  const auto one_line = [](const ordered_json& json) { return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace); };
  std::string text = "{\"title\": " + one_line(document.title) + ",\n \"tables\": [";
  const char* before_table = "";
  for (const Part& part : document.parts)
    for (const Block& block : part.blocks)
      if (const auto* table = std::get_if<TableBlock>(&block)) {
        text += std::string(before_table) + "\n{\"caption\": " + one_line(table->caption) + ",\n \"rows\": [";
        const char* before_row = "";
        for (const auto& row : table->rows) {
          ordered_json object = ordered_json::object();
          for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string words = plain(row[i]);
            ordered_json cell = words == "-" ? ordered_json(nullptr) : ordered_json(words);
            for (const Inline& piece : row[i])
              if (piece.kind == Inline::Kind::number) {
                ordered_json sources = ordered_json::array();
                for (const Source& source : piece.sources)
                  sources.push_back({{"run", source.run}, {"id", source.id}, {"seed", source.seed}, {"step", source.step}, {"metric", source.metric}, {"value", source.value}});
                cell = {{"text", words}, {"sources", std::move(sources)}};
              }
            object[table->heads[i].words] = std::move(cell);
          }
          text += std::string(before_row) + "\n" + one_line(object);
          before_row = ",";
        }
        ordered_json notes = ordered_json::array();
        for (const Line& note : table->notes) notes.push_back(plain(note));
        text += "\n],\n \"notes\": " + one_line(notes) + "}";
        before_table = ",";
      }
  return text + "\n]}\n";
}

}  // namespace assay::report
