#include "runner/selection.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "runner/errors.h"
#include "support/suggest.h"

namespace assay::runner {
namespace {

using registry::Registry;
using registry::RunRow;

// A run of `assay verify` says something about the run it repeats and never stands in its place.
bool is_verification(const RunRow& row) { return row.run_json.find("\"verifies\":") != std::string::npos; }

// The newest run of each id that the word names.
std::vector<RunRow> newest_named(const Registry& registry, const std::optional<std::string>& series,
                                 const std::string& word) {
  Registry::RunFilter exact;
  exact.series = series;
  exact.run = word;
  const auto newest_of = [&](const std::string& run) {
    exact.run = run;
    for (std::int64_t limit = 1;; limit *= 8) {  // the newest is nearly always the one
      exact.limit = limit;
      std::vector<RunRow> rows = registry.runs(exact);  // newest first
      const auto found = std::find_if(rows.begin(), rows.end(), [](const RunRow& row) { return !is_verification(row); });
      if (found != rows.end()) return std::vector<RunRow>{*found};
      if (static_cast<std::int64_t>(rows.size()) < limit) return rows.empty() ? rows : std::vector<RunRow>{rows.front()};
    }
  };
  if (std::vector<RunRow> rows = newest_of(word); !rows.empty()) return rows;
  Registry::RunFilter all;
  all.series = series;
  all.texts = false;
  std::set<std::string> named;
  for (const RunRow& row : registry.runs(all))
    if (names_run(word, row.run)) named.insert(row.run);
  std::vector<RunRow> rows;
  for (const std::string& id : named)
    for (RunRow& row : newest_of(id)) rows.push_back(std::move(row));
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
  // First which, then their long texts: a series may have thousands of former runs.
  std::vector<RunRow> rows, verifications;
  for (const std::int64_t number : registry.newest_of_series(series)) {
    RunRow row = registry.run(number).value();
    if (is_verification(row)) verifications.push_back(std::move(row));
    else rows.push_back(std::move(row));
  }
  Registry::RunFilter former;
  former.series = series;
  for (const RunRow& verification : verifications) {
    former.run = verification.run;
    former.seed = verification.seed;
    std::vector<RunRow> all = registry.runs(former);
    const auto found = std::find_if(all.rbegin(), all.rend(), [](const RunRow& row) { return !is_verification(row); });
    if (found != all.rend()) rows.push_back(std::move(*found));
  }
  if (rows.empty()) return verifications;
  std::sort(rows.begin(), rows.end(), [](const RunRow& a, const RunRow& b) { return a.number < b.number; });
  return rows;
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
