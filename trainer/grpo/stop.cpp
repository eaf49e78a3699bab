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
  sigaction(SIGUSR1, &action, nullptr);  // launch_ranks.cpp
}

bool stop_requested() { return requested != 0; }

void check_stop() {
  if (stop_requested()) throw Stopped{};
}

const char* stop_signal() { return requested == SIGTERM || requested == SIGUSR1 ? "SIGTERM" : requested == SIGINT ? "SIGINT" : ""; }

}  // namespace assay::train
