#include "trainer/grpo/stop.h"

#include <csignal>

namespace assay::train {
namespace {

volatile std::sig_atomic_t requested = 0;

extern "C" void on_stop(int signal) { requested = signal; }

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() { return requested != 0; }

const char* stop_signal() { return requested == SIGTERM ? "SIGTERM" : requested == SIGINT ? "SIGINT" : ""; }

}  // namespace assay::train
