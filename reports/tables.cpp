// A Comparison as Markdown, CSV and JSON.
#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "reports/comparison.h"
#include "reports/text.h"

namespace assay::report {
namespace {

using nlohmann::ordered_json;

bool measured(const std::optional<EvalPoint>& point) { return point && point->problems > 0; }

double percent(const EvalPoint& point) {
  return 100.0 * static_cast<double>(point.correct) / static_cast<double>(point.problems);
}

bool other_quant(const std::optional<EvalPoint>& point) { return measured(point) && point->quant != point->trained_quant; }

bool went_wrong(const RunResult& run) {
  return run.state == "failed" || run.state == "killed" || run.state == "lost" || run.state == "stalled";
}

std::string missing(const RunResult& run) { return went_wrong(run) ? "!" : "-"; }

std::string or_dash(const std::string& text) { return text.empty() ? "-" : text; }

std::string with_sign(double points) {
  const std::string text = fixed(points, 1);
  return text.starts_with('-') || text == "0.0" ? text : "+" + text;
}

std::int64_t last_step(const RunResult& run) { return measured(run.last) ? run.last->step : run.steps; }

// What the table as a whole needs to know before any row is written.
struct Shape {
  bool seeds = false;           // more than one seed
  bool repeats = false;         // one id and seed more than once: rows need their run's number
  std::optional<std::int64_t> first, last;  // the steps measured at, if the same for all; the planned last one if not measured
  std::set<std::int64_t> problems;
};

Shape shape_of(const Comparison& comparison) {
  Shape shape;
  std::set<std::int64_t> seeds, firsts, lasts;
  std::set<std::pair<std::string, std::int64_t>> rows;
  for (const ComparisonRow& row : comparison.rows) {
    seeds.insert(row.run.seed);
    if (!rows.emplace(row.run.id, row.run.seed).second) shape.repeats = true;
    if (measured(row.run.first)) firsts.insert(row.run.first->step);
    lasts.insert(last_step(row.run));
    for (const auto* point : {&row.run.first, &row.run.last})
      if (measured(*point)) shape.problems.insert((*point)->problems);
  }
  shape.seeds = seeds.size() > 1;
  if (firsts.empty()) shape.first = 0;
  if (firsts.size() == 1) shape.first = *firsts.begin();
  if (lasts.size() == 1) shape.last = *lasts.begin();
  return shape;
}

std::string row_name(const ComparisonRow& row, const Shape& shape) {
  std::string name = row.run.id;
  if (shape.seeds) name += ", seed " + std::to_string(row.run.seed);
  if (shape.repeats) name += ", run " + std::to_string(row.run.number);
  return name;
}

std::string accuracy_cell(const std::optional<EvalPoint>& point, const RunResult& run) {
  if (!measured(point)) return missing(run);
  return fixed(percent(*point), 1) + (other_quant(point) ? "‡" : "");
}

std::string published_cell(const RunResult& run) {
  if (!run.published_first && !run.published_last) return "-";
  const auto text = [](const std::optional<double>& value) { return value ? as_published(*value) : std::string("-"); };
  return text(run.published_first) + " → " + text(run.published_last);
}

std::string coverage_cell(const RunResult& run) {
  if (!run.adapters_with_gradient || !run.adapter_tensors) return "-";
  return std::to_string(*run.adapters_with_gradient) + "/" + std::to_string(*run.adapter_tensors);
}

struct TableColumn {
  Column column;
  std::function<std::string(const ComparisonRow&)> cell;
  std::string meaning;          // below the table; empty: speaks for itself
  bool only_if_used = false;    // left out when every cell is "-"
};

std::vector<TableColumn> columns_of(const Shape& shape, const CompareOptions& options) {
  std::string on;
  if (!shape.problems.empty()) {
    on = " on ";
    for (const std::int64_t n : shape.problems) on += (n == *shape.problems.begin() ? "" : " or ") + std::to_string(n);
    on += " test problems";
    if (shape.problems.size() > 1) on += " (the runs differ in that)";
  }
  const std::string first = shape.first ? "step " + std::to_string(*shape.first) : "first step";
  const std::string last = shape.last ? "step " + std::to_string(*shape.last) : "last step";

  std::vector<TableColumn> columns;
  if (shape.repeats)
    columns.push_back({{"run", true}, [](const auto& row) { return std::to_string(row.run.number); }, "", false});
  columns.push_back({{"id", false}, [](const auto& row) { return row.run.id; }, "", false});
  columns.push_back({{"description", false}, [](const auto& row) { return or_dash(row.run.title); }, "", false});
  if (shape.seeds)
    columns.push_back({{"seed", true}, [](const auto& row) { return std::to_string(row.run.seed); }, "", false});
  columns.push_back({{"format", false}, [](const auto& row) { return or_dash(row.run.format); }, "", false});
  columns.push_back({{"hook", false}, [](const auto& row) { return or_dash(row.run.hook); }, "", false});
  columns.push_back({{"blocking", false}, [](const auto& row) { return or_dash(row.run.blocking); }, "", false});
  columns.push_back({{"STE", false}, [](const auto& row) { return or_dash(row.run.ste); }, "", false});
  columns.push_back({{first, true},
                     [named = shape.first.has_value()](const auto& row) {
                       std::string cell = accuracy_cell(row.run.first, row.run);
                       if (!named && measured(row.run.first)) cell += " @" + std::to_string(row.run.first->step);
                       return cell;
                     },
                     "", false});
  columns.push_back({{last, true},
                     [named = shape.last.has_value()](const auto& row) {
                       std::string cell = accuracy_cell(row.run.last, row.run);
                       if (!named) cell += " @" + std::to_string(last_step(row.run));
                       return cell;
                     },
                     "`" + first + "`, `" + last + "`: accuracy in %" + on + " after that many training steps" +
                         (shape.first && shape.last ? "" : ", which stand behind the @ where they differ"),
                     false});
  columns.push_back({{"95 % interval", true},
                     [](const auto& row) {
                       if (!row.interval) return missing(row.run);
                       return fixed(100 * row.interval->low, 1) + "–" + fixed(100 * row.interval->high, 1);
                     },
                     "`95 % interval`: Wilson score interval of the accuracy at `" + last + "`", false});
  columns.push_back({{"baseline", false}, [](const auto& row) { return or_dash(row.baseline); }, "", true});
  columns.push_back({{"difference", true},
                     [](const auto& row) { return row.difference ? with_sign(*row.difference) : std::string("-"); },
                     "`difference`: to the baseline's run of the same seed at `" + last + "`, in percentage points", true});
  columns.push_back({{"p", true},
                     [](const auto& row) { return row.p ? p_value(*row.p) : std::string("-"); },
                     "`p`: exact two-sided McNemar test of that difference on the same test problems. It is about these two trained "
                     "models; about their configs several seeds say more (`assay report`)", true});
  columns.push_back({{"score", true},
                     [](const auto& row) {
                       return row.run.training_score ? fixed(100 * *row.run.training_score, 1) : std::string("-");
                     },
                     "`score`: mean score of the answers sampled in the last training step, in %", true});
  columns.push_back({{"gradient", true},
                     [](const auto& row) { return coverage_cell(row.run); },
                     "`gradient`: adapter tensors with a gradient other than zero in the last training step, of all", true});
  columns.push_back({{"published", true},
                     [](const auto& row) { return published_cell(row.run); },
                     "`published`: accuracy in % as somebody else reported it for the original of this run, first → last", true});
  columns.push_back({{"status", false}, [](const auto& row) { return row.verdict.word; },
                     "`status`: " + status_rule(options), false});
  return columns;
}

std::string notes(const Comparison& comparison, const Shape& shape) {
  std::string text;
  const auto list = [&](const std::string& heading, const auto& reason_of) {
    std::string lines;
    for (const ComparisonRow& row : comparison.rows)
      if (const std::string reason = reason_of(row); !reason.empty())
        lines += "- " + row_name(row, shape) + ": " + reason + "\n";
    if (!lines.empty()) text += "\n" + heading + "\n\n" + lines;
  };
  list("Not finished:", [](const ComparisonRow& row) {
    return row.run.excluded.empty() && (row.run.state != "succeeded" || row.verdict.word == "unfinished") ? row.verdict.sentence : std::string();
  });
  list("Excluded:", [](const ComparisonRow& row) { return row.run.excluded; });
  list("Not tested:", [](const ComparisonRow& row) {
    return row.verdict.word == "untested" ? row.verdict.sentence : std::string();
  });
  list("No difference, or no p, to the baseline:", [](const ComparisonRow& row) { return row.refused; });
  list("‡ Measured under another quantization than trained under:", [](const ComparisonRow& row) {
    for (const auto* point : {&row.run.last, &row.run.first})
      if (other_quant(*point)) return "measured under `" + (*point)->quant + "`, trained under `" + (*point)->trained_quant + "`";
    return std::string();
  });
  return text;
}

ordered_json point_json(const std::optional<EvalPoint>& point) {
  if (!measured(point)) return nullptr;
  return {{"step", point->step},
          {"problems", point->problems},
          {"correct", point->correct},
          {"accuracy", percent(*point)},
          {"quant", point->quant},
          {"trained_quant", point->trained_quant},
          {"data_sha256", point->data_sha256}};
}

template <typename Value>
ordered_json or_null(const std::optional<Value>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

}  // namespace

std::string to_markdown(const std::vector<RunResult>& runs, const CompareOptions& options) {
  const Comparison comparison = compare(runs, options);
  if (comparison.rows.empty()) return "No runs.\n";
  const Shape shape = shape_of(comparison);
  std::vector<TableColumn> columns = columns_of(shape, options);
  std::erase_if(columns, [&](const TableColumn& column) {
    return column.only_if_used && std::all_of(comparison.rows.begin(), comparison.rows.end(),
                                              [&](const ComparisonRow& row) { return column.cell(row) == "-"; });
  });

  std::vector<Column> heads;
  for (const TableColumn& column : columns) heads.push_back(column.column);
  std::vector<std::vector<std::string>> cells;
  bool gaps = false, errors = false;
  for (const ComparisonRow& row : comparison.rows) {
    auto& line = cells.emplace_back();
    for (const TableColumn& column : columns) {
      line.push_back(column.cell(row));
      gaps |= line.back().starts_with("-") && line.back().size() == 1;
      errors |= line.back().starts_with("!");
    }
  }
  std::string text = markdown_table(heads, cells) + "\n";
  for (const TableColumn& column : columns)
    if (!column.meaning.empty()) text += "- " + column.meaning + ".\n";
  if (gaps || errors)
    text += std::string("- ") + (gaps ? "`-`: nothing to show" : "") + (gaps && errors ? "; " : "") +
            (errors ? "`!`: missing because the run went wrong" : "") + ".\n";
  return text + notes(comparison, shape);
}

std::string to_csv(const std::vector<RunResult>& runs, const CompareOptions& options) {
  std::string text = csv_line({"run", "id", "description", "seed", "format", "hook", "blocking", "ste", "steps",
                               "problems", "correct_first", "accuracy_first", "correct_last", "accuracy_last",
                               "interval_low", "interval_high", "quant", "trained_quant", "data_sha256", "baseline",
                               "difference", "p", "refused", "training_score", "adapters_with_gradient",
                               "adapter_tensors", "published_first", "published_last", "state", "state_detail", "status",
                               "sentence"});
  for (const ComparisonRow& row : compare(runs, options).rows) {
    const RunResult& run = row.run;
    const auto number = [](const auto& value) -> std::string {
      if (!value) return "-";
      if constexpr (std::is_integral_v<std::decay_t<decltype(*value)>>) return std::to_string(*value);
      else return shortest(*value);
    };
    const auto correct = [&](const auto& point) { return measured(point) ? std::to_string(point->correct) : missing(run); };
    const auto accuracy = [&](const auto& point) { return measured(point) ? shortest(percent(*point)) : missing(run); };
    const bool known = measured(run.last) || measured(run.first);
    const EvalPoint& shown = measured(run.last) ? *run.last : measured(run.first) ? *run.first : EvalPoint{};
    const auto of_shown = [&](const std::string& value) { return known ? or_dash(value) : missing(run); };
    text += csv_line({std::to_string(run.number), run.id, run.title, std::to_string(run.seed), or_dash(run.format),
                      or_dash(run.hook), or_dash(run.blocking), or_dash(run.ste), std::to_string(run.steps),
                      of_shown(std::to_string(shown.problems)), correct(run.first), accuracy(run.first),
                      correct(run.last), accuracy(run.last),
                      row.interval ? shortest(rounded(100 * row.interval->low)) : missing(run),
                      row.interval ? shortest(rounded(100 * row.interval->high)) : missing(run), of_shown(shown.quant),
                      of_shown(shown.trained_quant), of_shown(shown.data_sha256), or_dash(row.baseline),
                      number(row.difference), row.p ? shortest(rounded(*row.p)) : "-", or_dash(row.refused), number(run.training_score),
                      number(run.adapters_with_gradient), number(run.adapter_tensors), number(run.published_first),
                      number(run.published_last), run.state, or_dash(run.state_detail), row.verdict.word,
                      row.verdict.sentence});
  }
  return text;
}

std::string to_json(const std::vector<RunResult>& runs, const CompareOptions& options) {
  ordered_json rows = ordered_json::array();
  for (const ComparisonRow& row : compare(runs, options).rows) {
    const RunResult& run = row.run;
    const auto word = [](const std::string& text) { return text.empty() ? ordered_json("-") : ordered_json(text); };
    rows.push_back(
        {{"run", run.number},
         {"id", run.id},
         {"description", run.title},
         {"seed", run.seed},
         {"format", word(run.format)},
         {"hook", word(run.hook)},
         {"blocking", word(run.blocking)},
         {"ste", word(run.ste)},
         {"steps", run.steps},
         {"first", point_json(run.first)},
         {"last", point_json(run.last)},
         {"interval", row.interval ? ordered_json{rounded(100 * row.interval->low), rounded(100 * row.interval->high)}
                                    : ordered_json(nullptr)},
         {"baseline", row.baseline.empty() ? ordered_json(nullptr) : ordered_json(row.baseline)},
         {"difference", or_null(row.difference)},
         {"p", row.p ? ordered_json(rounded(*row.p)) : ordered_json(nullptr)},
         {"refused", row.refused.empty() ? ordered_json(nullptr) : ordered_json(row.refused)},
         {"training_score", or_null(run.training_score)},
         {"adapters_with_gradient", or_null(run.adapters_with_gradient)},
         {"adapter_tensors", or_null(run.adapter_tensors)},
         {"published", {{"first", or_null(run.published_first)}, {"last", or_null(run.published_last)}}},
         {"state", run.state},
         {"state_detail", run.state_detail},
         {"status", row.verdict.word},
         {"sentence", row.verdict.sentence}});
  }
  const ordered_json all = {{"success_accuracy", options.success_accuracy},
                            {"alpha", options.alpha},
                            {"rule", status_rule(options)},
                            {"rows", std::move(rows)}};
  // A description that is not UTF-8 must not take the table down.
  return all.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace assay::report
