#include "series_invariants.h"

#include <nlohmann/json.hpp>

#include "experiments/spec/canonical.h"
#include "experiments/spec/series.h"

namespace assay::fuzz {

std::string series_finding(const std::filesystem::path& file, bool& good) {
  const auto result = spec::read_series(file);
  good = std::holds_alternative<spec::Series>(result);
  if (good) {
    for (const spec::RunSpec& run : std::get<spec::Series>(result).runs) {
      if (run.id.empty()) return "a run without an id";
      if (spec::config_hash(run.config).size() != 64) return "a run without a hash: " + run.id;
      const std::string text = spec::canonical_json(run.config);
      if (spec::canonical_json(spec::config_from_json(nlohmann::json::parse(text))) != text)
        return "a config that does not come back from its JSON: " + run.id;
    }
    return {};
  }
  const auto& wrong = std::get<spec::Diagnostics>(result);
  if (wrong.empty()) return "refused without a word";
  for (const spec::Diagnostic& d : wrong) {
    if (d.message.empty() || d.file.empty()) return "a diagnostic without a file or a message: " + d.text();
    const bool placed = d.line >= 1 && d.column >= 1;
    const bool whole = d.line == 0 && d.column == 0;   // of the file as a whole: empty, binary, no run
    if (!placed && !whole) return "a diagnostic without a place: " + d.text();
  }
  return {};
}

}  // namespace assay::fuzz
