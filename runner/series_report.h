// A series' log as files and as text. Pictures are drawn by gnuplot, which must be installed (tools/debian-packages).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "reports/document.h"
#include "reports/pictures.h"

namespace assay::runner {

// Each plot as SVG or PNG bytes, in their order: one gnuplot process for all. Throws UserError when there is no gnuplot, or
// it refuses a script.
std::vector<std::string> draw(const std::vector<report::Plot>& plots, const std::string& terminal);

// The whole log of a series as one HTML page, pictures inside. `pictures` off: without them. Throws UserError when there is
// no such series.
std::string series_report_html(const registry::Registry& registry, const std::string& series, bool pictures = true);

// Template files of a folder, by name; those that mean nothing are named in the error (UserError, kRefused).
report::Templates read_templates(const std::filesystem::path& folder);

}  // namespace assay::runner
