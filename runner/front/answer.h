// What the front (front.cpp) is told, by the warm process or, where that has handed its connection on, by the daemon.
#pragma once

#include <string>

namespace assay::runner::front {

// On `connection`, with send()'s `flags`. Whoever does not read it, or stops reading, has gone: no error.
void answer_done(int connection, int code, const std::string& out, const std::string& err, int flags = 0);
// It is to execute the real program: nothing has been done.
void answer_step_aside(int connection, int flags = 0);

}  // namespace assay::runner::front
