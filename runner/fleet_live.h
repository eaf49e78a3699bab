// What fleet.cpp and fleet_requests.cpp share.
#pragma once

#include <asio/steady_timer.hpp>
#include <optional>

#include "runner/fleet.h"
#include "runner/ingest.h"

namespace assay::runner {

// kill.json's `by` where the run is to end with a checkpoint and wait.
constexpr const char* kPausedToCheckpoint = "assay pause --checkpoint";

struct Fleet::Timer : asio::steady_timer {
  using asio::steady_timer::steady_timer;
};

// A run that an executor has, or is about to get.
struct Fleet::Live {
  Live(registry::Registry& registry, const registry::RunRow& row, Executor& who, std::int64_t steps)
      : folder(row.folder), executor(who), ingest(registry, row.number, row.folder, steps) {}

  std::filesystem::path folder;
  Executor& executor;
  bool command_trainer = false;
  bool ending = false;                       // it is over; what it wrote last is being read
  std::optional<asio::steady_timer> begun;   // it executes, which is about to be recorded
  std::string waits;                         // what it waits for at its executor
  Ingest ingest;
};

inline registry::RunEdit held_edit(bool held) {
  registry::RunEdit edit;
  edit.held = held;
  return edit;
}

}  // namespace assay::runner
