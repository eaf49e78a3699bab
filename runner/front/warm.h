// The warm process: `assay-cli serve-adds`, which carries out `assay add` commands that front.cpp hands over.
#pragma once

namespace assay::runner {

// Listens beside the daemon's socket and serves one command after the other, until the daemon goes away or nothing has
// been asked for ten minutes. One after the other: a command that has a model to hash, which a machine does once, holds up
// those behind it. Returns an exit code; throws UserError where there is no daemon or no place to listen.
int serve_adds();

}  // namespace assay::runner
