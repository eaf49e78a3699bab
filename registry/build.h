// What this build of assay is. Internal to registry/.
#pragma once

#include <string>

namespace assay::registry {

struct BuildFacts {
  std::string commit;      // of the source tree when it was built; "unknown" when it was no git checkout
  bool dirty = false;
  std::string build_type, flags, compiler, libtorch;  // libtorch: the version assay-train was built with
};
const BuildFacts& build_facts();

}  // namespace assay::registry
