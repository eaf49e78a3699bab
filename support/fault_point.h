// Named places where a crash hurts most, for the tests that kill there (tests/fault). In the programs that are shipped
// nothing answers to the name: only a test program that is linked with a hook of its own (tests/fault/hook.cpp) does
// anything at all here, whatever the environment says. The cost is a comparison with null.
#pragma once

extern "C" [[gnu::weak, gnu::visibility("hidden")]] void assay_fault_hook(const char* point);

namespace assay::support {

// The names are listed in tests/fault/hook.cpp.
inline void fault_point(const char* point) {
  if (assay_fault_hook != nullptr) assay_fault_hook(point);
}

}  // namespace assay::support
