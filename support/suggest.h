// "did you mean": the nearest of the known words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace assay::support {

// Optimal-string-alignment distance: insertions, deletions, substitutions and swaps of neighbours cost 1.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The known word nearest to `typed`, if it is near enough to be a slip (distance at most a third of its length, at
// least 1); empty otherwise. Ties go to the earlier word.
std::string nearest(std::string_view typed, const std::vector<std::string>& known);

// "; did you mean 'X'?" or nothing.
std::string did_you_mean(std::string_view typed, const std::vector<std::string>& known);

}  // namespace assay::support
