#include "runner/selection.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "runner/errors.h"
#include "support/suggest.h"

namespace assay::runner {
namespace {

using registry::Registry;
using registry::RunRow;

std::vector<RunRow> latest_by_id(std::vector<RunRow> rows) {
  std::map<std::pair<std::string, std::int64_t>, RunRow> latest;
  for (RunRow& row : rows) {
    const auto key = std::make_pair(row.run, row.seed);
    const auto found = latest.find(key);
    if (found == latest.end() || found->second.number < row.number) latest.insert_or_assign(key, std::move(row));
  }
  std::vector<RunRow> result;
  for (auto& [key, row] : latest) result.push_back(std::move(row));
  std::sort(result.begin(), result.end(), [](const RunRow& a, const RunRow& b) { return a.number < b.number; });
  return result;
}

// The newest run of each id that the word names.
std::vector<RunRow> newest_named(const Registry& registry, const std::optional<std::string>& series,
                                 const std::string& word) {
  Registry::RunFilter exact;
  exact.series = series;
  exact.run = word;
  exact.limit = 1;
  if (std::vector<RunRow> rows = registry.runs(exact); !rows.empty()) return rows;
  Registry::RunFilter all;
  all.series = series;
  all.texts = false;
  std::map<std::string, std::int64_t> newest;
  for (const RunRow& row : registry.runs(all))
    if (names_run(word, row.run)) newest[row.run] = std::max(newest[row.run], row.number);
  std::vector<RunRow> rows;
  for (const auto& [id, number] : newest) rows.push_back(registry.run(number).value());
  return rows;
}

[[noreturn]] void no_such_run(const Registry& registry, const std::string& word) {
  std::set<std::string> known;
  Registry::RunFilter all;
  all.texts = false;
  all.limit = 1000;
  for (const RunRow& row : registry.runs(all)) {
    known.insert(row.run);
    known.insert(row.series);
  }
  const std::string hint = support::did_you_mean(word, {known.begin(), known.end()});
  throw UserError(kNoSuchRun, "run '" + word + "': there is none of that number, id or series" + hint +
                                  (known.empty() ? "; nothing has been run yet, type `assay run SERIES`"
                                                 : "; type `assay status --all` to see all runs"));
}

}  // namespace

bool names_run(const std::string& word, const std::string& id) {
  if (word.empty() || id.compare(0, word.size(), word) != 0) return false;
  return id.size() == word.size() || id[word.size()] == '-';
}

std::optional<std::int64_t> as_number(const std::string& word) {
  const std::size_t begin = !word.empty() && word[0] == '#' ? 1 : 0;
  std::int64_t number = 0;
  const char* last = word.data() + word.size();
  const auto [end, error] = std::from_chars(word.data() + begin, last, number);
  if (error != std::errc() || end != last || begin == word.size() || number < 0) return std::nullopt;
  return number;
}

std::vector<RunRow> latest_of_series(const Registry& registry, const std::string& series) {
  Registry::RunFilter filter;
  filter.series = series;
  return latest_by_id(registry.runs(filter));
}

std::vector<RunRow> select_runs(const Registry& registry, const std::vector<std::string>& words) {
  std::vector<RunRow> selected;
  std::set<std::int64_t> taken;
  const auto take = [&](std::vector<RunRow> rows) {
    for (RunRow& row : rows)
      if (taken.insert(row.number).second) selected.push_back(std::move(row));
  };
  for (const std::string& word : words) {
    if (const auto number = as_number(word)) {
      const auto row = registry.run(*number);
      if (!row) no_such_run(registry, word);
      take({*row});
      continue;
    }
    std::vector<RunRow> rows;
    if (const auto slash = word.find('/'); slash != std::string::npos) {
      rows = newest_named(registry, word.substr(0, slash), word.substr(slash + 1));
    } else {
      rows = latest_of_series(registry, word);
      if (rows.empty()) rows = newest_named(registry, std::nullopt, word);
    }
    if (rows.empty()) no_such_run(registry, word);
    take(std::move(rows));
  }
  return selected;
}

std::vector<std::int64_t> numbers_of(const Registry& registry, const std::vector<std::string>& words) {
  std::vector<std::int64_t> numbers;
  for (const RunRow& row : select_runs(registry, words)) numbers.push_back(row.number);
  return numbers;
}

RunRow select_one(const Registry& registry, const std::string& word) {
  std::vector<RunRow> rows = select_runs(registry, {word});
  if (rows.size() != 1) {
    std::string which;
    for (const RunRow& row : rows) which += (which.empty() ? "" : ", ") + std::to_string(row.number) + " " + row.run;
    throw UserError(kNoSuchRun, "run '" + word + "': that names several (" + which + "); give one number or one run id");
  }
  return std::move(rows.front());
}

}  // namespace assay::runner
