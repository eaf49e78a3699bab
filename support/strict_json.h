// JSON of files that others wrote: a key that comes twice is an error instead of the last one winning.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace assay::support {

// Throws std::runtime_error saying what is wrong and at which byte. Nesting deeper than 64 is refused.
nlohmann::json parse_strict_json(std::string_view text);

}  // namespace assay::support
