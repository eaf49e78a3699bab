// How runs look on the screen and in --json.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::runner {

// Everything status, follow and wait print of one run as JSON.
nlohmann::json run_json(const registry::RunRow& row, const registry::Progress& progress,
                        const std::optional<std::string>& waits_for);

// "e13g-nvfp4 s1"
std::string label(const registry::RunRow& row);
std::string label(const std::string& run, std::int64_t seed);
// What `assay add` prints of runs that were added: a line each, or {"numbers": […]}.
std::string added(bool as_json, const std::vector<std::int64_t>& numbers, const std::vector<std::string>& labels);
// "failed (exit code 3): config.json: …", "killed by …", "queued"
std::string state_text(const registry::State& state);
// "61.3 %", "-"
std::string percent(const std::optional<double>& share);
// Whether the last of these was measured under another quantization than its run is trained under, or an unknown one.
bool other_quant(const std::vector<registry::Evaluation>& evaluations);
// The accuracy so far; with ‡ where that is so: "61.3 %‡".
std::string accuracy_text(const registry::Progress& progress, const std::vector<registry::Evaluation>& evaluations);
// What ‡ means, a line.
extern const char* const kOtherQuantNote;
// "12 s", "3 min 05 s", "2 h 04 min"
std::string duration(double seconds);
// Seconds still to go by the pace so far; nothing until there is one.
std::optional<double> time_left(const registry::RunRow& row, const registry::Progress& progress, double now);

// Columns padded with spaces to the width of their longest cell (counted in characters, not bytes), two between them.
// Cells of columns in `right` (by index) are moved to the right.
std::string text_table(const std::vector<std::vector<std::string>>& rows, const std::vector<std::size_t>& right = {});

// The characters of UTF-8 text, without counting its bytes; cut() keeps the first so many.
std::size_t characters(const std::string& text);
std::string cut(const std::string& text, std::size_t limit);

enum class Color { automatic, always, never };
// automatic: a terminal, and NO_COLOR is not set.
bool use_color(Color color, int fd);

}  // namespace assay::runner
