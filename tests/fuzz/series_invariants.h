// What the series reader promises for any bytes.
#pragma once

#include <filesystem>
#include <string>

namespace assay::fuzz {

// Empty: all promises were kept. Otherwise which was not. `good` becomes whether the file ended in a series.
// - A series' runs have an id and a hash, and each config comes back from its canonical JSON the same.
// - A refusal says something, and each of its diagnostics names a file and a place: a line and column, or the file as a whole.
std::string series_finding(const std::filesystem::path& file, bool& good);

}  // namespace assay::fuzz
