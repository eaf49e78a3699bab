// states.jsonl in a run folder: every state the run was in, a line each, so that the registry can be rebuilt.
//
//   {"time", "state", "attempt", "exit_code", "signal", "detail", "fault"}; the first one, and one for each edit of a run
//   that waits, also has "priority", "group", "after" and "after_any"; one that pauses or resumes a run has "held", of a
//   retry "not_before", of `assay clean` and `restart` "hidden". Such a line but the first repeats the state it finds.
// Registry::add_runs(), Registry::transition() and Registry::edit_run() write it, inside their transactions and before the commit. A line whose
// commit failed is followed by what really happened; replaying takes the lines in order, and the last word counts.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::registry {

struct StateLine {
  double time = 0;                     // unix seconds
  std::int64_t attempt = 0;            // attempts started so far, this one included
  State state;
  std::int64_t priority = 0;           // these four of the first line and of edits
  std::vector<std::int64_t> after;
  std::string group = {};
  std::vector<std::int64_t> after_any = {};
  bool places = false;                 // read_states(): the line has them
  std::optional<bool> held = {}, hidden = {};   // of an edit
  std::optional<double> not_before = {};

  // Of any line but the first: it changed what is said here, not the state.
  bool edit() const { return places || held || hidden || not_before; }
};

// Appends a line; `places`: with priority, group and dependencies; `sync`: it survives a power cut. A run whose folder is gone has no journal: nothing happens then.
// Throws std::runtime_error "PATH: REASON".
void append_state(const std::filesystem::path& folder, const StateLine& line, bool places, bool sync);

// The lines that are whole; empty when there is no file. `bad` counts those that are not what append_state() writes.
std::vector<StateLine> read_states(const std::filesystem::path& folder, int& bad);

// What the lines amount to, by the rules of Registry::transition(): state, attempt, created, started, ended, priority,
// after, held, hidden and not_before of `row` are set. `lines` must not be empty.
std::vector<Attempt> replay_states(const std::vector<StateLine>& lines, RunRow& row);

}  // namespace assay::registry
