// Following runs: what is printed while they go.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/client.h"
#include "runner/view.h"

namespace assay::runner {

struct Watched {
  registry::RunRow row;
  registry::Progress progress;
  std::vector<registry::Evaluation> evaluations;   // without outcomes
};

// How the state of the runs is shown. update() is called with all of them: at first, and whenever something has changed
// or a second has gone by.
class ProgressView {
 public:
  virtual ~ProgressView() = default;
  virtual void update(const std::vector<Watched>& runs, double now) = 0;
};

// One line a run, redrawn in place; when they are more than the screen has lines, those that run and a count of the rest.
std::unique_ptr<ProgressView> terminal_view(std::FILE* out, bool color);
// A line for each start, each evaluation and each end; no control characters.
std::unique_ptr<ProgressView> plain_view(std::FILE* out);
// A JSON object a line, whenever what it says of a run has changed.
std::unique_ptr<ProgressView> json_view(std::FILE* out);
// Nothing.
std::unique_ptr<ProgressView> silent_view();
// The first on a terminal, the second otherwise.
std::unique_ptr<ProgressView> view_for(std::FILE* out, Color color);

// Shows the runs until all have ended, and returns them as they ended. Starts the daemon anew should it go away. Throws
// UserError (kInterrupted) that says how to go on after Ctrl-C; the runs are not touched.
std::vector<Watched> follow(const Paths& paths, Client& client, const std::vector<std::int64_t>& numbers,
                            ProgressView& view);

// True when every one has succeeded.
bool all_succeeded(const std::vector<Watched>& runs);

}  // namespace assay::runner
