// Build tool: writes the commit of the source tree into a header, and touches the header only when that changes.
#include <cstdio>
#include <exception>
#include <string>

#include "registry/git.h"
#include "support/files.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: assay_stamp SOURCE_DIR HEADER\n", stderr);
    return 2;
  }
  std::string commit = "unknown";
  bool dirty = false;
  try {
    const auto state = assay::registry::repository_state(argv[1]);
    // A tree unpacked into somebody else's repository is not that repository's code.
    if (state && !state->bare && std::filesystem::equivalent(state->root, argv[1])) {
      if (!state->commit.empty()) commit = state->commit;
      dirty = state->dirty;
    }
  } catch (const std::exception& error) {
    // Not knowing is no reason not to build; runs will be marked "unknown".
    std::fprintf(stderr, "warning: %s\n", error.what());
  }
  try {
    const std::string text = "// Generated at each build.\n#define ASSAY_BUILD_COMMIT \"" + commit +
                             "\"\n#define ASSAY_BUILD_DIRTY " + (dirty ? "1" : "0") + "\n";
    const std::filesystem::path header = argv[2];
    if (!std::filesystem::exists(header) || assay::support::read_file(header) != text)
      assay::support::write_file_atomically(header, text);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
