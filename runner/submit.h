// What `run` and `add` have in common: resolve, preflight, freeze, hand over to the daemon.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runner/attempts.h"
#include "runner/client.h"
#include "runner/paths.h"
#include "runner/protocol.h"
#include "runner/resolve.h"

namespace assay::runner {

struct SubmitOptions {
  ResolveOptions what;
  std::vector<std::string> after;       // runs to wait for, that they succeed
  std::vector<std::string> after_any;   // runs to wait for, however they end
  std::string group;                    // instead of schedule.group
  std::vector<std::string> labels;      // K=V
  std::int64_t priority = 0;
  bool doctor = false;                  // preflight each distinct config first
  bool strict = false;                  // and refuse when it finds an error
};

// What goes to the daemon: one submission for each series meant, and how each run is shown ("e13g s1"), in order.
struct Prepared {
  std::vector<Submission> submissions;
  std::vector<std::string> labels;
  std::string batch, created;           // of this command; in each run and its run_json as well, once filled_in
  bool filled_in = false;
};

// What a process keeps that prepares one command after the other.
struct Kept {
  ProgramMarks marks;
  std::string environment;              // facts of the machine
  double environment_read = 0;          // unix seconds; they are read again after ten
};

// Reads the facts of the machine, unless they were read in the last ten seconds.
void read_machine(Kept& kept);

// Everything that can be refused without the daemon is refused here. Prints the preflight's warnings on stderr. Throws
// UserError. What it looks at is noted (support/looks.h), but for the facts of the machine; while that is the same, and with
// the same options, environment, directory and facts, renew() gives what it would.
Prepared prepare(const Paths& paths, const SubmitOptions& options, Kept* kept = nullptr);
// The same as another command, of this moment: with another batch and time.
void renew(Prepared& prepared);

// Returns the numbers, in order. Throws UserError. With `kept`, for a single submission: the daemon is told to keep it, so
// that the next with the same content need not bring it, and says by what number (0: it has not kept it).
std::vector<std::int64_t> submit_prepared(Client& client, Prepared& prepared, std::int64_t* kept = nullptr);

// The same of one that it has kept, of which only what renew() changes is sent; and it does not answer here, but to the
// front (front/answer.h) at the other end of `connection`: what `assay add` prints, or that it has done nothing. Of the
// latter it gives notice here as well. Throws UserError where the daemon has gone; it has not heard of it then.
void hand_on(Client& client, const Prepared& prepared, std::int64_t kept, bool as_json, int connection);

// Both, so that everything is refused before a single run is queued; the labels in `labels`.
std::vector<std::int64_t> submit(const Paths& paths, Client& client, const SubmitOptions& options,
                                 std::vector<std::string>* labels = nullptr);

}  // namespace assay::runner
