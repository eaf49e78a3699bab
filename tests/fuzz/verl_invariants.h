// What the console parsers promise for any bytes.
#pragma once

#include <string>
#include <string_view>

namespace assay::fuzz {

// Empty: all promises were kept. The bytes are read as a verl log, as trl lines and by a pattern.
std::string verl_finding(std::string_view text);

}  // namespace assay::fuzz
