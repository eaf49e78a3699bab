// SIGTERM and SIGINT, asked about between steps.
#pragma once

namespace assay::train {

// From here on both signals only set a flag; so does SIGUSR1, which stands for SIGTERM among ranks. A second one while the first is being obeyed changes nothing.
void catch_stop_signals();
bool stop_requested();
struct Stopped {};
void check_stop();          // throws Stopped when one came
const char* stop_signal();  // "SIGTERM" | "SIGINT"; "" when none came

}  // namespace assay::train
