#include "runner/front/warm.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_serve_adds(CLI::App&) {
  return [] { return serve_adds(); };
}

}  // namespace assay::runner
