// The comparison table, as `assay compare --json` has it.
#include "reports/comparison.h"

#include "runner/comparison.h"
#include "runner/selection.h"
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

}  // namespace assay::runner::web
