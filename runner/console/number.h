// Numbers as Python programs print them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace assay::console {

// -8.1e-06, nan, inf, -inf, +3, True, False, np.float64(0.6), np.float32(nan), tensor(0.5, device='cuda:0'),
// array(0.25); the whole text must be one, spaces around it apart. Nothing for anything else, out of range included.
std::optional<double> parse_number(std::string_view text);

// A line without what terminals take as commands (ECMA-48 escape sequences) and without control characters; a tab
// becomes a space, bytes that are not UTF-8 become '?'. Cost: linear.
std::string without_controls(std::string_view line);

}  // namespace assay::console
