// The warm process: `assay-cli serve-adds`, which carries out `assay add` commands that front.cpp hands over.
#pragma once

namespace assay::runner {

// Listens beside the daemon's socket and serves one command after the other, until the daemon goes away or nothing has
// been asked for ten minutes. Returns an exit code; throws UserError where there is no daemon or no place to listen.
int serve_adds();

}  // namespace assay::runner
