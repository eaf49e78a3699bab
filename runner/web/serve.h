// `assay serve`: the web page, on loopback unless told otherwise.
#pragma once

#include <string>

#include "runner/paths.h"

namespace assay::runner::web {

struct ServeOptions {
  std::string host = "127.0.0.1";
  int port = 8713;              // 0: any that is free
  bool allow_actions = false;
  bool json = false;            // say where it listens as JSON
};

// To be called before anything that needs HTTP: assay becomes assay-web, with the same command line (elsewhere.cpp); in
// assay-web it returns. Throws UserError when that is not there.
void speak_http();

// Until SIGINT or SIGTERM. Starts the daemon if there is none. Throws UserError: the port is taken, the daemon cannot be
// had.
void serve(const Paths& paths, const ServeOptions& options);

}  // namespace assay::runner::web
