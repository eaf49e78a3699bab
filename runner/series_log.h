// From the registry's rows to what a series' log needs.
#pragma once

#include "registry/registry.h"
#include "reports/series_log.h"

namespace assay::runner {

// Everything the registry has of a series. Throws UserError (kNoSuchRun) when there is no such series, with what there is.
report::SeriesLog series_log(const registry::Registry& registry, const std::string& series);

// One run, whatever series it stands in.
report::LoggedRun logged_run(const registry::Registry& registry, const registry::RunRow& row);

}  // namespace assay::runner
