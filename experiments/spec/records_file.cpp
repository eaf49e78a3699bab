#include "experiments/spec/records_file.h"

#include <charconv>
#include <cmath>
#include <functional>
#include <set>

#include "experiments/spec/toml_file.h"
#include "support/suggest.h"

namespace assay::spec {
namespace {

using Taker = std::function<void(const toml::node&)>;

class Reader {
 public:
  Reader(const TomlFile& toml, Diagnostics& wrong) : toml_(toml), wrong_(wrong) {}

  void complain(const toml::node& node, const std::string& message) {
    wrong_.push_back(at(toml_.mark(node.source()), message));
  }

  // Each key of the table goes to its taker; one without is named, with the one that was perhaps meant.
  void keys(const toml::table& table, const std::map<std::string, Taker>& takers, const std::string& where) {
    std::vector<std::string> known;
    for (const auto& [key, unused] : takers) known.push_back(key);
    for (const auto& [key, node] : table) {
      const auto found = takers.find(std::string(key.str()));
      if (found != takers.end()) found->second(node);
      else
        complain(node, "unknown key '" + std::string(key.str()) + "' in " + where +
                           support::did_you_mean(std::string(key.str()), known));
    }
  }

  Taker text(std::string& into) {
    return [this, &into](const toml::node& node) {
      if (const auto* value = node.as_string()) into = value->get();
      else if (const auto* day = node.as_date()) into = date_text(day->get());
      else complain(node, "wanted a string in quotes, got " + describe(node));
    };
  }

  Taker texts(std::vector<std::string>& into) {
    return [this, &into](const toml::node& node) {
      const auto value = to_value(node);
      if (value && std::holds_alternative<Strings>(*value)) into = std::get<Strings>(*value);
      else complain(node, "wanted a list of strings, got " + describe(node));
    };
  }

  Taker integer(const std::function<void(std::int64_t)>& take, std::int64_t low) {
    return [this, take, low](const toml::node& node) {
      const auto* value = node.as_integer();
      if (value != nullptr && value->get() >= low) take(value->get());
      else complain(node, "wanted an integer of at least " + std::to_string(low) + ", got " + describe(node));
    };
  }

  Taker number(const std::function<void(double)>& take) {
    return [this, take](const toml::node& node) {
      if (const auto value = as_number(node)) take(*value);
      else complain(node, "wanted a number, got " + describe(node));
    };
  }

  Taker choice(std::string& into, const std::vector<std::string>& words) {
    return [this, &into, words](const toml::node& node) {
      const auto* value = node.as_string();
      std::string list;
      for (const std::string& word : words) {
        if (value != nullptr && value->get() == word) {
          into = word;
          return;
        }
        list += (list.empty() ? "" : ", ") + ("\"" + word + "\"");
      }
      complain(node, "wanted one of " + list + ", got " + describe(node));
    };
  }

  // { 0 = 8.11, 20 = 60.88 }: percent by step.
  Taker by_step(std::map<std::int64_t, double>& into) {
    return [this, &into](const toml::node& node) {
      const auto* table = node.as_table();
      if (table == nullptr) return complain(node, "wanted percent by step, as { 0 = 8.11, 20 = 60.88 }, got " + describe(node));
      for (const auto& [key, value] : *table) {
        const std::string word(key.str());
        std::int64_t step = -1;
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), step);
        const auto percent = as_number(value);
        if (error != std::errc() || end != word.data() + word.size() || step < 0)
          complain(value, "'" + word + "' is no step; wanted percent by step, as { 0 = 8.11, 20 = 60.88 }");
        else if (!percent || !(*percent >= 0 && *percent <= 100))
          complain(value, "wanted percent from 0 to 100, got " + describe(value));
        else
          into[step] = *percent;
      }
    };
  }

  // Every [[name]] goes to `take`.
  Taker tables(const std::string& name, const std::function<void(const toml::table&)>& take) {
    return [this, name, take](const toml::node& node) {
      const auto* list = node.as_array();
      bool all = list != nullptr;
      if (list != nullptr)
        for (const toml::node& element : *list) all &= element.is_table();
      if (!all) return complain(node, "wanted tables [[" + name + "]], got " + describe(node));
      for (const toml::node& element : *list) take(*element.as_table());
    };
  }

 private:
  static std::optional<double> as_number(const toml::node& node) {
    if (const auto* value = node.as_floating_point(); value != nullptr && std::isfinite(value->get())) return value->get();
    if (const auto* value = node.as_integer()) return static_cast<double>(value->get());
    return std::nullopt;
  }

  static std::string date_text(const toml::date& day) {
    const auto two = [](int value) { return (value < 10 ? "0" : "") + std::to_string(value); };
    return std::to_string(day.year) + "-" + two(day.month) + "-" + two(day.day);
  }

  const TomlFile& toml_;
  Diagnostics& wrong_;
};

RecordedRun read_run(Reader& reader, const toml::table& table) {
  RecordedRun run;
  reader.keys(table,
              {{"run", reader.text(run.run)},
               {"seed", reader.integer([&](std::int64_t seed) { run.seed = seed; }, 0)},
               {"accuracy", reader.by_step(run.accuracy)},
               {"score", reader.by_step(run.score)},
               {"quantization_error", reader.number([&](double percent) { run.quantization_error = percent; })},
               {"outcome", reader.text(run.outcome)},
               {"script", reader.text(run.script)},
               {"log", reader.text(run.log)},
               {"date", reader.text(run.date)},
               {"commits", reader.texts(run.commits)},
               {"files", reader.texts(run.files)},
               {"state", reader.choice(run.state, {"succeeded", "failed", "killed", "lost"})},
               {"detail", reader.text(run.detail)},
               {"range", reader.tables("record.range", [&](const toml::table& entry) {
                  RecordedRange range;
                  reader.keys(entry,
                              {{"metric", reader.text(range.metric)},
                               {"from", reader.integer([&](std::int64_t step) { range.from = step; }, 0)},
                               {"to", reader.integer([&](std::int64_t step) { range.to = step; }, 0)},
                               {"low", reader.number([&](double value) { range.low = value; })},
                               {"high", reader.number([&](double value) { range.high = value; })}},
                              "[[record.range]]");
                  if (range.metric.empty() || range.to < range.from || range.high < range.low)
                    reader.complain(entry, "a range needs a metric, steps from..to and values low..high");
                  run.ranges.push_back(range);
                })}},
              "[[record]]");
  if (run.run.empty()) reader.complain(table, "[[record]] has no run; write run = \"ID\"");
  if (run.accuracy.empty() && run.score.empty())
    reader.complain(table, "the record of '" + run.run + "' has no figure; write accuracy = { STEP = PERCENT }");
  return run;
}

RecordedClaim read_claim(Reader& reader, const toml::table& table) {
  RecordedClaim claim;
  bool of = false, to = false, said = false;
  reader.keys(table,
              {{"what", reader.text(claim.what)},
               {"note", reader.text(claim.note)},
               {"said", reader.number([&](double value) { claim.said = value, said = true; })},
               {"unit", reader.choice(claim.unit, {"x", "%", "points"})},
               {"decimals", reader.integer([&](std::int64_t value) { claim.decimals = std::min<std::int64_t>(value, 9); }, 0)},
               {"how", reader.choice(claim.how, {"ratio", "percent", "difference"})},
               {"of", reader.number([&](double value) { claim.of = value, of = true; })},
               {"to", reader.number([&](double value) { claim.to = value, to = true; })},
               {"of_run", reader.text(claim.of_run)},
               {"to_run", reader.text(claim.to_run)},
               {"metric", reader.choice(claim.of_metric, {"accuracy", "score"})},
               {"step", reader.integer([&](std::int64_t step) { claim.step = step; }, 0)}},
              "[[claim]]");
  const bool numbers = of && to, runs = !claim.of_run.empty() && !claim.to_run.empty() && claim.step >= 0;
  if (claim.what.empty() || !said || numbers == runs)
    reader.complain(table, "[[claim]] needs what, said, and either two numbers (of, to) or two runs and a step (of_run, to_run, step)");
  return claim;
}

void check_counts(const RecordsFile& records, const TomlFile& toml, Diagnostics& wrong) {
  if (records.problems <= 0) return;
  for (const RecordedRun& run : records.runs)
    for (const auto& [step, percent] : run.accuracy)
      if (!count_of(percent, records.problems))
        wrong.push_back({toml.path.string(), 0, 0,
                         "record '" + run.run + "': no count of " + std::to_string(records.problems) +
                             " problems makes the accuracy at step " + std::to_string(step) +
                             "; correct the accuracy or test.problems"});
}

}  // namespace

std::optional<std::int64_t> count_of(double percent, std::int64_t problems) {
  const auto near = [](double a, double b) { return std::abs(a - b) < 1e-9; };
  const double half = near(std::round(percent), percent)             ? 0.5
                      : near(std::round(percent * 10), percent * 10) ? 0.05
                                                                     : 0.005;
  const std::int64_t count = std::llround(percent * static_cast<double>(problems) / 100);
  const double back = 100.0 * static_cast<double>(count) / static_cast<double>(problems);
  if (std::abs(back - percent) > half + 1e-9) return std::nullopt;
  return count;
}

std::variant<RecordsFile, Diagnostics> read_records(const std::filesystem::path& path) {
  auto loaded = load_toml(path);
  if (auto* diagnostic = std::get_if<Diagnostic>(&loaded)) return Diagnostics{*diagnostic};
  const TomlFile toml = std::get<TomlFile>(std::move(loaded));
  Diagnostics wrong;
  Reader reader(toml, wrong);
  RecordsFile records;
  records.file = path;
  records.text = toml.text;
  reader.keys(
      toml.root,
      {{"series", reader.text(records.series)},
       {"source", reader.text(records.source)},
       {"side_problems", reader.texts(records.side_problems)},
       {"open_questions", reader.texts(records.open_questions)},
       {"background", reader.texts(records.background)},
       {"files", reader.texts(records.files)},
       {"test",
        [&](const toml::node& node) {
          const auto* table = node.as_table();
          if (table == nullptr) return reader.complain(node, "wanted a table [test], got " + describe(node));
          reader.keys(*table,
                      {{"name", reader.text(records.test_name)},
                       {"metric", reader.text(records.metric)},
                       {"quant", reader.text(records.quant)},
                       {"quant_note", reader.text(records.quant_note)},
                       {"problems", reader.integer([&](std::int64_t n) { records.problems = n; }, 1)}},
                      "[test]");
        }},
       {"commit", reader.tables("commit", [&](const toml::table& table) {
          RecordedCommit commit;
          reader.keys(table, {{"id", reader.text(commit.id)}, {"what", reader.text(commit.what)}}, "[[commit]]");
          if (commit.id.empty()) reader.complain(table, "[[commit]] has no id");
          records.commits.push_back(commit);
        })},
       {"claim", reader.tables("claim", [&](const toml::table& table) { records.claims.push_back(read_claim(reader, table)); })},
       {"record", reader.tables("record", [&](const toml::table& table) { records.runs.push_back(read_run(reader, table)); })}},
      "the file");
  const auto lacks = [&](const std::string& what) { wrong.push_back({path.string(), 0, 0, what}); };
  if (records.series.empty()) lacks("it names no series; write series = \"ID\" at the top");
  if (records.problems == 0) lacks("it does not say how many test problems there were; write [test] problems = N");
  if (records.metric.empty()) lacks("it does not say what the accuracy is called; write [test] metric = \"val-core/…\"");
  if (records.runs.empty()) lacks("it holds no [[record]]");
  std::set<std::pair<std::string, std::int64_t>> seen;
  for (const RecordedRun& run : records.runs)
    if (!seen.emplace(run.run, run.seed.value_or(-1)).second) lacks("there are two records of run '" + run.run + "' with one seed");
  check_counts(records, toml, wrong);
  if (!wrong.empty()) return wrong;
  return records;
}

}  // namespace assay::spec
