// SIGTERM and SIGINT, asked about between steps.
#pragma once

namespace assay::train {

// From here on both signals only set a flag. A second one while the first is being obeyed changes nothing.
void catch_stop_signals();
bool stop_requested();
const char* stop_signal();  // "SIGTERM" | "SIGINT"; "" when none came

}  // namespace assay::train
