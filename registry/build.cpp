#include "registry/build.h"

#include "assay_build_stamp.h"

namespace assay::registry {

const BuildFacts& build_facts() {
  static const BuildFacts facts = {ASSAY_BUILD_COMMIT, ASSAY_BUILD_DIRTY != 0, ASSAY_BUILD_TYPE,
                                   ASSAY_BUILD_FLAGS,  ASSAY_BUILD_COMPILER,   ASSAY_BUILD_LIBTORCH};
  return facts;
}

}  // namespace assay::registry
