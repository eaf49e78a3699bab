// Verbs that read JSON lines on standard input and write one line for each, in order, flushed.
#pragma once

#include <functional>
#include <iosfwd>
#include <nlohmann/json_fwd.hpp>

namespace assay::train {

// answer(object) gives the line to write. What it throws, and a line that is not a JSON object, becomes {"error": …}, and
// the rest goes on. Blank lines are answered too: every line in has one line out.
void answer_json_lines(std::istream& in, std::ostream& out,
                       const std::function<nlohmann::json(const nlohmann::json&)>& answer);

}  // namespace assay::train
