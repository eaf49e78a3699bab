// What is made of several runs: the comparison table, as `assay compare --json` has it; two runs problem by problem; the
// report of a series.
#include "reports/comparison.h"

#include "runner/comparison.h"
#include "runner/grid.h"
#include "runner/selection.h"
#include "runner/series_report.h"
#include "runner/web/site.h"

namespace assay::runner::web {

std::string Site::compare(const Request& request) {
  const std::vector<std::string> words = request.parameters("what");
  if (words.empty()) throw Refusal{400, "what: say which series or runs are to be compared"};
  const Lease registry = open();
  const std::vector<registry::RunRow> rows = select_runs(*registry, words);
  CompareChoice choice;
  if (const std::string baseline = request.parameter("baseline"); !baseline.empty())
    choice.baseline = select_one(*registry, baseline).run;
  if (!request.parameter("first").empty()) choice.first = whole_number(request.parameter("first"), "first");
  if (!request.parameter("last").empty()) choice.last = whole_number(request.parameter("last"), "last");
  return report::to_json(results(*registry, rows, choice), compare_options(*registry, rows, choice));
}

nlohmann::json Site::problems(const Request& request) {
  const Lease registry = open();
  const auto run = [&](const char* name) {
    const std::int64_t number = whole_number(request.parameter(name), name);
    const auto found = registry->run(number);
    if (!found) throw Refusal{404, "there is no run " + std::to_string(number) + " in this registry"};
    return *found;
  };
  const Problems problems = problem_pairs(*registry, run("first"), run("second"), number_parameter(request, "step", -1, INT64_MAX));
  const std::string which = request.parameter("which", "gained");
  if (which != "gained" && which != "lost") throw Refusal{400, "which: problems are gained or lost, not '" + which + "'"};
  const std::int64_t offset = number_parameter(request, "offset", 0, INT64_MAX), limit = number_parameter(request, "limit", 20, 200);
  using nlohmann::json;
  std::int64_t both = 0, neither = 0, gained = 0, lost = 0;
  json rows = json::array();
  for (const report::ProblemPair& pair : problems.pairs) {
    if (pair.first.correct == pair.second.correct) {
      ++(pair.first.correct ? both : neither);
      continue;
    }
    const std::int64_t place = (pair.second.correct ? gained : lost)++;
    if (pair.second.correct != (which == "gained") || place < offset || std::ssize(rows) >= limit) continue;
    const auto answer = [](const report::Answer& one) { return json{{"outcome", one.outcome}, {"completion", one.completion}}; };
    rows.push_back({{"index", pair.index}, {"question", pair.question}, {"expected", pair.gold},
                    {"first", answer(pair.first)}, {"second", answer(pair.second)}});
  }
  return {{"first", problems.first}, {"second", problems.second}, {"step", problems.step}, {"steps", problems.steps}, {"problems", problems.pairs.size()},
          {"gained", gained}, {"lost", lost}, {"both", both}, {"neither", neither},
          {"p", report::mcnemar_exact(lost, gained)}, {"which", which}, {"offset", offset}, {"rows", std::move(rows)}};
}

// A document of its own: its style stands inside, and only this server's pages may put it into a frame.
Response Site::report(const std::string& series) {
  Response response;
  {
    const Lease registry = open();
    response.body = series_report_html(*registry, series);
  }
  response.type = "text/html; charset=utf-8";
  response.headers["Content-Security-Policy"] =
      "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";
  response.headers["X-Frame-Options"] = "SAMEORIGIN";
  return response;
}

}  // namespace assay::runner::web
