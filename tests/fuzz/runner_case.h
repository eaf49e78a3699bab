// What must hold for any bytes at all: of a line of metrics.jsonl, and of what somebody sends to the daemon's socket.
// Throws std::runtime_error when it does not.
#pragma once

#include <string_view>

namespace assay::fuzz {

// read_metrics_line() takes a line exactly if a plain reading of the JSON tree takes it, with the same numbers.
void check_metrics_line(std::string_view line);

// The server answers each line with one line of JSON that says ok or why not, whatever came, and goes on.
void check_protocol(std::string_view bytes);

}  // namespace assay::fuzz
